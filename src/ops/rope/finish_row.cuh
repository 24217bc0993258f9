// One row's norm, rotation, transform and snap (ops/rope/head_rows.h) in shared memory: by a block
// few instructions and many threads, where a row is one of few and its block starts cold; by a warp
// where they are many.
#pragma once

#include <cstdint>

#include "ops/norm/rms_norm.cuh"
#include "ops/quant/act_quant.cuh"
#include "ops/rope/head_rows.cuh"
#include "ops/rows/thread_group.cuh"
#include "tile/scalar.cuh"

namespace cachalot::ops {

// The factor of the row's weighted norm, for all threads. x: n values in shared memory, 16 at
// least, which the group has just written.
template <typename Group>
__device__ __forceinline__ float row_norm_factor(const float* x, int n, float eps) {
  const auto by_warp = [&] {  // both halves of the warp alike
    float sum = 0;
#pragma unroll 8
    for (int i = threadIdx.x % 16; i < n; i += 16) sum = add_square<Norm::weighted>(sum, x[i]);
    return norm_factor<Norm::weighted>(fold_chains(sum), n, eps);
  };
  Group::sync();
  if constexpr (Group::kCount == 32) {
    return __shfl_sync(kWarp, by_warp(), 0);
  } else {
    __shared__ float factor;
    if (threadIdx.x < 32) {
      const float own = by_warp();
      if (threadIdx.x == 0) factor = own;
    }
    __syncthreads();
    return factor;
  }
}

// A run of the row by a warp.
template <int kRun>
__device__ __forceinline__ void snap_run(float* x, HeadSnap snap) {
  float largest = 0;
  for (int i = threadIdx.x % 32; i < kRun; i += 32) largest = fmaxf(largest, fabsf(x[i]));
  largest = warp_max_magnitude(largest);
  const auto [scale, inverse] =
      heads::power_of_two(snap == HeadSnap::fp8 ? fp8_exponent(largest) : fp4_exponent(largest));
  for (int i = threadIdx.x % 32; i < kRun; i += 32) {
    const float v = x[i];
    if (snap == HeadSnap::fp8) {
      x[i] = tile::e4m3_value(e4m3_code(v * inverse)) * scale;
    } else {  // e2m1 has no code for NaN
      x[i] = v != v ? v : tile::e2m1_value(tile::e2m1_from_float(v * inverse)) * scale;
    }
  }
}

// x: the row of p, whose head_dim is a multiple of 32, in shared memory. cos_row, sin_row: its own.
// factor: of the transform. By a group, which sees the result.
template <typename Group>
__device__ __forceinline__ void finish_row(float* x, const HeadRowsParams& p, const float* cos_row,
                                           const float* sin_row, float factor) {
  const int n = static_cast<int>(p.head_dim);
  const int first_rotated = n - static_cast<int>(p.rope_dim);
  const float norm = row_norm_factor<Group>(x, n, p.eps);
  for (int i = Group::thread(); i < n; i += Group::kCount) {  // whole warps
    float v = weigh<Norm::weighted>(x[i] * norm, p.g + i, p.round);
    const float other = __shfl_xor_sync(kWarp, v, 1);
    if (i >= first_rotated) {
      const float c = cos_row[(i - first_rotated) / 2], s = sin_row[(i - first_rotated) / 2];
      v = i % 2 == 0 ? fmaf(v, c, -(other * s)) : fmaf(other, s, v * c);
      if (p.round) v = tile::round_to_bf16(v);
    }
    x[i] = v;
  }
  Group::sync();
  if (p.hadamard) {
    for (int stride = 1; stride < n; stride *= 2) {
#pragma unroll 2
      for (int i = Group::thread(); i < n / 2; i += Group::kCount) {
        const int first = 2 * i - (i & (stride - 1));
        const float u = x[first], v = x[first + stride];
        x[first] = u + v;
        x[first + stride] = u - v;
      }
      Group::sync();
    }
    for (int i = Group::thread(); i < n; i += Group::kCount) {
      const float v = x[i] * factor;
      x[i] = p.round ? tile::round_to_bf16(v) : v;
    }
    Group::sync();
  }
  const int warp = Group::thread() / 32;
  if (p.snap == HeadSnap::fp8) {
#pragma unroll 1
    for (int at = warp * 64; at < first_rotated; at += Group::kCount * 2)
      snap_run<64>(x + at, p.snap);
  }
  if (p.snap == HeadSnap::fp4) {
#pragma unroll 1
    for (int at = warp * 32; at < n; at += Group::kCount) snap_run<32>(x + at, p.snap);
  }
  Group::sync();
}

}  // namespace cachalot::ops
