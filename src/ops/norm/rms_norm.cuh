// The arithmetic of the norms on the GPU (rms_norm.h): the CPU's bits.
#pragma once

#include <cstdint>

#include "tile/convert.cuh"

namespace cachalot::ops {

enum class Norm { weighted, bf16_steps, factor_only };

// One value's step in its chain.
template <Norm kNorm>
__device__ __forceinline__ float add_square(float sum, float x) {
  return kNorm == Norm::bf16_steps ? sum + tile::round_to_bf16(x * x) : fmaf(x, x, sum);
}

// The sum of a row's 16 chains, one a lane of half a warp, in its first lane.
__device__ __forceinline__ float fold_chains(float sum) {
#pragma unroll
  for (int half = 8; half > 0; half /= 2) sum += __shfl_down_sync(0xFFFFFFFFu, sum, half, 16);
  return sum;
}

// Of a row, from its sum of squares.
template <Norm kNorm>
__device__ __forceinline__ float norm_factor(float sum, int64_t columns, float eps) {
  const float mean = sum / static_cast<float>(columns);
  if constexpr (kNorm == Norm::bf16_steps) {
    const float shifted = tile::round_to_bf16(tile::round_to_bf16(mean) + eps);
    return tile::round_to_bf16(1.0f / sqrtf(shifted));
  }
  return 1.0f / sqrtf(mean + eps);
}

// Of a value times its row's factor. g: its weight, where it has one.
template <Norm kNorm>
__device__ __forceinline__ float weigh(float value, bool has_weight, float g, bool round) {
  if constexpr (kNorm == Norm::bf16_steps) return tile::round_to_bf16(value);
  const float weighted = has_weight ? g * value : value;
  return round ? tile::round_to_bf16(weighted) : weighted;
}
template <Norm kNorm>
__device__ __forceinline__ float weigh(float value, const float* g, bool round) {
  return weigh<kNorm>(value, g != nullptr, g != nullptr ? *g : 1.0f, round);
}

}  // namespace cachalot::ops
