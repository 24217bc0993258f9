// A head's norm in steps of bf16 and its rotation, on pairs of values in bf16. Products of two bf16
// values fit an f32, so that one rounded to bf16 at once has the bits of its two roundings.
#pragma once

#include "ops/norm/rms_norm.cuh"

namespace cachalot::ops::heads {

// The norm's 16 chains by kLanes neighbouring lanes: a lane's are the first from kOwn lane on.
template <int kLanes>
struct Chains {
  static constexpr int kOwn = 16 / kLanes;
  float sum[kOwn] = {};

  // Squares of chains `first` and the next of the lane's.
  __device__ __forceinline__ void add(int first, uint32_t pair) {
    sum[first] += tile::low_bf16(pair);
    sum[first + 1] += tile::high_bf16(pair);
  }
  // The factor of a head with so many values, twice. By whole warps.
  __device__ __forceinline__ uint32_t factors(int64_t values, float eps) {
    constexpr uint32_t kAll = 0xFFFFFFFFu;
#pragma unroll
    for (int distance = kLanes / 2; distance >= 1; distance /= 2) {  // as fold_chains
#pragma unroll
      for (float& each : sum) each += __shfl_down_sync(kAll, each, distance, kLanes);
    }
#pragma unroll
    for (int distance = kOwn / 2; distance >= 1; distance /= 2) {
#pragma unroll
      for (int i = 0; i < distance; ++i) sum[i] += sum[i + distance];
    }
    const float all = __shfl_sync(kAll, sum[0], 0, kLanes);
    const float factor = norm_factor<Norm::bf16_steps>(all, values, eps);
    return tile::pack_bf16(factor, factor);
  }
};

__device__ __forceinline__ uint32_t rotated_pair(uint32_t pair, float cos, float sin) {
  const float u = tile::low_bf16(pair), v = tile::high_bf16(pair);
  return tile::pack_bf16(fmaf(u, cos, -(v * sin)), fmaf(u, sin, v * cos));
}

}  // namespace cachalot::ops::heads
