// The versions of the mHC operations (hyper_connection.h).
#pragma once

#include <algorithm>

#include "ops/elementwise/tile.h"
#include "ops/hyper/hyper_connection.h"

namespace cachalot::ops {

inline constexpr int64_t kMaxStreams = 8;

using HyperInvRmsKernel = void(const float* streams, int64_t first_row, int64_t last_row,
                               int64_t columns, float eps, float* inv_rms);
HyperInvRmsKernel hyper_inv_rms_ref, hyper_inv_rms_avx2, hyper_inv_rms_avx512;

using HyperSplitKernel = void(const HyperSplitParams& p, int64_t first_row, int64_t last_row);
HyperSplitKernel hyper_split_ref, hyper_split_avx2, hyper_split_avx512;

// Rows that hyper_split works on at once; the reference takes one after the other.
inline constexpr int64_t kSplitLanes = 16;

struct HyperSplitScratch {
  float* d_logits;  // [rows, 2n + n*n]
  float* d_scale;   // [rows, 3]
  float* passes;    // of this thread: hyper_split_passes_floats(p)
};
// Room for the results and divisors of all passes of Sinkhorn.
inline int64_t hyper_split_passes_floats(const HyperSplitParams& p) {
  return 2 * std::max<int64_t>(1, p.sinkhorn_iters) * p.n * (p.n + 1) * kSplitLanes;
}
using HyperSplitBackwardKernel = void(const HyperSplitParams& p, const HyperSplitGradients& g,
                                      const HyperSplitScratch& scratch, int64_t first_row,
                                      int64_t last_row);
HyperSplitBackwardKernel hyper_split_backward_ref, hyper_split_backward_avx2,
    hyper_split_backward_avx512;

struct HyperPreParams {
  const float* streams;
  const float* pre;
  int64_t n;
  int64_t d;
  bool round_u;
  float* u;
};
using HyperPreKernel = void(const HyperPreParams& p, const Tile& tile);
HyperPreKernel hyper_pre_ref, hyper_pre_avx2, hyper_pre_avx512;

struct HyperPostParams {
  const float* streams;
  const float* y;
  const float* post;
  const float* comb;
  int64_t n;
  int64_t d;
  bool round_x;
  float* out;
};
using HyperPostKernel = void(const HyperPostParams& p, const Tile& tile);
HyperPostKernel hyper_post_ref, hyper_post_avx2, hyper_post_avx512;

// d inv_rms / d x_i = -inv_rms^3 x_i / columns.
inline float hyper_inv_rms_factor(float inv_rms, float d_inv_rms, int64_t columns) {
  return -(inv_rms * inv_rms * inv_rms) * d_inv_rms / static_cast<float>(columns);
}

// Backward, over rows: the sums along d stay within a row's task.
using HyperInvRmsBackwardKernel = void(const float* streams, const float* inv_rms,
                                       const float* d_inv_rms, int64_t first_row, int64_t last_row,
                                       int64_t columns, float* d_streams);
HyperInvRmsBackwardKernel hyper_inv_rms_backward_ref, hyper_inv_rms_backward_avx2,
    hyper_inv_rms_backward_avx512;
using HyperPreBackwardKernel = void(const HyperPreBackwardParams& p, int64_t first_row,
                                    int64_t last_row);
HyperPreBackwardKernel hyper_pre_backward_ref, hyper_pre_backward_avx2, hyper_pre_backward_avx512;
using HyperPostBackwardKernel = void(const HyperPostBackwardParams& p, int64_t first_row,
                                     int64_t last_row);
HyperPostBackwardKernel hyper_post_backward_ref, hyper_post_backward_avx2,
    hyper_post_backward_avx512;

}  // namespace cachalot::ops
