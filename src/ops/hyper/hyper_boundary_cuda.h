// What lies between two sublayers, in one kernel: the end of the last one's mHC, the mapping and
// the
// beginning of the next one's, and its norm.
// Source  reference/forward 2.3 - 2.5, 0.6, 4.3:
//         y = a sublayer's output, or the sum of the experts' rows; X' = after(X, y, post, C);
//         (u, post', C') = before(X', hc); out = RMS(u, norm).
// Shapes  streams [tokens, 4, d] bf16, read and written in place; y [tokens, d] bf16, or
//         rows of experts [tokens * k, d] bf16 chosen by slots [tokens, k] (-1: none), and shared
//         [tokens, d] bf16; fn [24, 4 d], base [24], scale [3] fp32; norm [d] bf16; post [tokens,
//         4],
//         comb [tokens, 4, 4] fp32, read and written; out [tokens, d] bf16. 16-byte aligned.
// Numerics  X', post, comb, u and out as ops/hyper/hyper_connection.h and ops/norm/rms_norm.h do
//         them with bf16 roundings, but for the order of three sums (24 mixes, two sums of
//         squares):
//         over the four streams by fma, over 32 channels in a butterfly, over slices of 32 channels
//         in 32 chains and a butterfly. The order depends on d alone.
// Special y null and slots null: X stays as it is (before the first sublayer).
// Threads scratch belongs to one stream; counters are zero before the first call and after each.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "device/cuda/device.h"
#include "device/cuda/handles.h"

namespace cachalot::ops {

struct HyperBoundaryParams {
  int64_t tokens;
  int64_t d;
  uint16_t* streams;
  const uint16_t* y;
  const int32_t* slots;
  int64_t k;
  const uint16_t* shared;  // with slots; or null
  const float* fn;
  const float* base;
  const float* scale;
  const uint16_t* norm;
  float* post;
  float* comb;
  uint16_t* out;
  float* partial;      // [tokens, 25, d / 32]
  uint32_t* counters;  // [tokens]
  int64_t sinkhorn_iters = 20;
  float hc_eps = 1e-6f;
  float rms_norm_eps = 1e-6f;
};

// d: a multiple of 256, at most 8192. Else invalid_argument.
Status check_hyper_boundary(const HyperBoundaryParams& params);
void launch_hyper_boundary(const device::cuda::Stream& stream, const HyperBoundaryParams& params);

}  // namespace cachalot::ops
