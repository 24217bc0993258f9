// The kernels of hyper_connection_simd.h, hyper_split_lanes.h and hyper_backward_simd.h for
// AVX-512.
#include "ops/elementwise/f32x16_avx512.h"

// The vector type comes first.
#include "ops/hyper/hyper_backward_simd.h"
#include "ops/hyper/hyper_connection_simd.h"
#include "ops/hyper/hyper_split_lanes.h"

namespace cachalot::ops {

void hyper_inv_rms_avx512(const float* streams, int64_t first_row, int64_t last_row,
                          int64_t columns, float eps, float* inv_rms) {
  hyper_inv_rms_simd(streams, first_row, last_row, columns, eps, inv_rms);
}

void hyper_pre_avx512(const HyperPreParams& p, const Tile& tile) { hyper_pre_simd(p, tile); }

void hyper_post_avx512(const HyperPostParams& p, const Tile& tile) { hyper_post_simd(p, tile); }

void hyper_split_avx512(const HyperSplitParams& p, int64_t first_row, int64_t last_row) {
  hyper_split_lanes(p, first_row, last_row);
}

void hyper_split_backward_avx512(const HyperSplitParams& p, const HyperSplitGradients& g,
                                 const HyperSplitScratch& scratch, int64_t first_row,
                                 int64_t last_row) {
  hyper_split_backward_lanes(p, g, scratch, first_row, last_row);
}

void hyper_inv_rms_backward_avx512(const float* streams, const float* inv_rms,
                                   const float* d_inv_rms, int64_t first_row, int64_t last_row,
                                   int64_t columns, float* d_streams) {
  hyper_inv_rms_backward_simd(streams, inv_rms, d_inv_rms, first_row, last_row, columns, d_streams);
}

void hyper_pre_backward_avx512(const HyperPreBackwardParams& p, int64_t first_row,
                               int64_t last_row) {
  hyper_pre_backward_simd(p, first_row, last_row);
}

void hyper_post_backward_avx512(const HyperPostBackwardParams& p, int64_t first_row,
                                int64_t last_row) {
  hyper_post_backward_simd(p, first_row, last_row);
}

}  // namespace cachalot::ops
