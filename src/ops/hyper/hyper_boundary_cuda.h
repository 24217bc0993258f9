// What lies between two sublayers, in two kernels or, of very many rows, in one: the end of the
// last one's mHC, the mapping and the beginning of the next one's, and its norm; or the head's
// collapse and its norm.
// Source  reference/forward 2.3 - 2.6, 0.6: X' = after(X, y, post, C);
//         (u, post', C') = before(X', hc); out = RMS(u, norm).
// Shapes  streams [rows, 4, d] in bf16, read and, with y, written in place; y [rows, d], values of
//         bf16, or null: X stays as it is; fn [4 d, 32]: 24 mixes of each channel and eight zeros
//         (a panel of ops/matmul/packed_weight.h), base [24], scale [3]; norm [d]; post [rows, 4],
//         comb [rows, 4, 4], read where y is, then written; out [rows, d], values of bf16. The
//         head's: fn [4 d, 16], four mixes and zeros, base [4], scale [1]; y, post and comb null.
//         16-byte aligned.
// Numerics  X', post, comb, u and out as ops/hyper/hyper_connection.h and ops/norm/rms_norm.h do
//         them with bf16 roundings, but for Sinkhorn's quotients, which are products with a
//         reciprocal good to two units in the last place, and for three sums. A mix: a weight is
//         the sum of three bf16 values, whose products are exact; 16 channels of a stream and the
//         three values, high, middle, low, are one chain in the tensor core; the eight chains of 32
//         channels of four streams are added ascending; then the slices of 32 channels, every 16th
//         to a chain ascending, and the 16 chains ascending. The streams' sum of squares: four
//         channels by fma, four such in a butterfly, then as the mixes. That of u: four channels by
//         fma for every 2048 to a chain, 32 chains in a butterfly, 16 such ascending. The orders
//         depend on d alone.
// Threads scratch belongs to one stream.
#pragma once

#include <cstdint>

#include "device/cuda/handles.h"
#include "ops/moe/expert_sum.h"

namespace cachalot::ops {

struct HyperBoundaryParams {
  int64_t rows;
  int64_t d;
  uint16_t* streams;
  const float* y;
  const uint16_t* y_bf16 = nullptr;  // y in bf16 instead
  const float* fn;
  const float* base;
  const float* scale;
  const float* norm;
  float* post;
  float* comb;
  float* logits = nullptr;  // [rows, 4, 4] of comb, which is then not made
  float* out;
  uint16_t* out_bf16 = nullptr;  // out in bf16 instead
  float* partial;                // hyper_boundary_scratch(rows, d) floats
  bool head;
  int64_t sinkhorn_iters = 20;
  float hc_eps = 1e-6f;
  float rms_norm_eps = 1e-6f;
  bool lets_next_in = false;  // of the one kernel: as LaunchOrder (ops/matmul/launch_order.h)
  ExpertSum sum = {};         // with picks: what y, which is then null, would be
};

// rows 1 to 65535; d: hyper_boundary_fits(4, d) (hyper_boundary.h).
int64_t hyper_boundary_scratch(int64_t rows, int64_t d);
void launch_hyper_boundary(const device::cuda::Stream& stream, const HyperBoundaryParams& params);

}  // namespace cachalot::ops
