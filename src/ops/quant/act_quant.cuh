// The block quantisers' scales on the GPU (ops/quant/act_quant_kernels.h): the same bits.
#pragma once

#include "ops/quant/act_quant_kernels.h"
#include "tile/convert.cuh"

namespace cachalot::ops {

inline constexpr uint32_t kWarp = 0xFFFFFFFFu;

// The largest magnitude of the warp's values; NaN counts for nothing.
__device__ __forceinline__ float warp_max_magnitude(float x) {
  float largest = fmaxf(0.0f, fabsf(x));
#pragma unroll
  for (int distance = 16; distance >= 1; distance /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(kWarp, largest, distance));
  return largest;
}

// The exponent of a block's scale from its largest magnitude.
__device__ __forceinline__ int scale_exponent(float largest, float floor, float inv_max) {
  const uint32_t bits = __float_as_uint(fmaxf(largest, floor) * inv_max);
  const int exponent =
      static_cast<int>((bits >> 23) & 0xFF) - 127 + ((bits & 0x7FFFFF) != 0 ? 1 : 0);
  return min(exponent, kMaxScaleExponent);
}
__device__ __forceinline__ int fp8_exponent(float largest, float amax_floor = kFp8AmaxFloor) {
  return scale_exponent(largest, amax_floor, kInvE4m3Max);
}
__device__ __forceinline__ int fp4_exponent(float largest) {
  return scale_exponent(largest, kFp4AmaxFloor, kInvE2m1Max);
}
// Of a block's exponent, -126 to 127.
__device__ __forceinline__ float scale_of(int exponent) {
  return __int_as_float((exponent + 127) << 23);
}

__device__ __forceinline__ uint8_t e4m3_code(float x) {
  return static_cast<uint8_t>(tile::pack_e4m3(x, 0.0f, 0.0f, 0.0f));
}

}  // namespace cachalot::ops
