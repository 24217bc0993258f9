// The residual mapping's matrix on the GPU (hyper_boundary_cuda.h).
#pragma once

#include <cstdint>

#include "ops/elementwise/exp.cuh"
#include "tile/convert.cuh"

namespace cachalot::ops {

// 1 / x to within two units in the last place, x being normal.
__device__ __forceinline__ float reciprocal(float x) {
  const float r = tile::approximate_reciprocal(x);
  return fmaf(r, fmaf(-x, r, 1.0f), r);
}

// The doubly stochastic matrix, by one warp, each lane all of it: its passes wait for nobody.
// logit: lane l's of value l of the matrix, l < 16.
__device__ __forceinline__ void make_comb(float logit, int64_t sinkhorn_iters, float hc_eps,
                                          float* comb) {
  constexpr int kStreams = 4;
  float c[kStreams][kStreams];
#pragma unroll
  for (int j = 0; j < kStreams; ++j) {
#pragma unroll
    for (int k = 0; k < kStreams; ++k) c[j][k] = __shfl_sync(0xFFFFFFFFu, logit, j * kStreams + k);
  }
  const auto rows = [&](float before, float after) {
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      const float r = reciprocal(c[j][0] + c[j][1] + c[j][2] + c[j][3] + before);
#pragma unroll
      for (int k = 0; k < kStreams; ++k) c[j][k] = c[j][k] * r + after;
    }
  };
  const auto columns = [&] {
#pragma unroll
    for (int k = 0; k < kStreams; ++k) {
      const float r = reciprocal(c[0][k] + c[1][k] + c[2][k] + c[3][k] + hc_eps);
#pragma unroll
      for (int j = 0; j < kStreams; ++j) c[j][k] *= r;
    }
  };
#pragma unroll
  for (int j = 0; j < kStreams; ++j) {
    float largest = c[j][0];
#pragma unroll
    for (int k = 1; k < kStreams; ++k) largest = c[j][k] > largest ? c[j][k] : largest;
#pragma unroll
    for (int k = 0; k < kStreams; ++k) c[j][k] = exp_f32_device(c[j][k] - largest);
  }
  rows(0.0f, hc_eps);
  columns();
  for (int pass = 1; pass < sinkhorn_iters; ++pass) {
    rows(hc_eps, 0.0f);
    columns();
  }
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kStreams * kStreams; ++i) {
    if (lane == i) comb[i] = c[i / kStreams][i % kStreams];
  }
}

}  // namespace cachalot::ops
