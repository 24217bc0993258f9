// Single values in registers, exact: what the plain kernels compute with, so that their bits are
// the CPU's.
#pragma once

#include <cstdint>

namespace cachalot::tile {

// x w + acc with one rounding, denormal inputs and results counting as zero: a step of bf16 math.
__device__ __forceinline__ float fma_ftz(float x, float w, float acc) {
  float y;
  asm("fma.rn.ftz.f32 %0, %1, %2, %3;" : "=f"(y) : "f"(x), "f"(w), "f"(acc));
  return y;
}
__device__ __forceinline__ float without_denormal(float x) {
  return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}

// The smaller and the larger of two values; NaN, though not with its bits, where one is.
__device__ __forceinline__ float min_or_nan(float a, float b) {
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
__device__ __forceinline__ float max_or_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

__device__ __forceinline__ float bf16_value(uint32_t bits) { return __uint_as_float(bits << 16); }
// A code's fields as those of a float are 2^-120 of its value.
__device__ __forceinline__ float e4m3_value(uint32_t code) {
  const float magnitude = __uint_as_float((code & 0x7F) << 20) * 0x1p120f;
  const float value = (code & 0x7F) == 0x7F ? __uint_as_float(0x7FC00000u) : magnitude;
  return (code & 0x80) != 0 ? -value : value;
}
// The low four bits: 2^-126 of the value, likewise.
__device__ __forceinline__ float e2m1_value(uint32_t code) {
  const float magnitude = __uint_as_float((code & 7) << 22) * 0x1p126f;
  return (code & 8) != 0 ? -magnitude : magnitude;
}
// 2^(byte - 127); of byte 0 a denormal.
__device__ __forceinline__ float e8m0_value(uint32_t byte) {
  return __uint_as_float(byte == 0 ? 0x00400000u : byte << 23);
}

}  // namespace cachalot::tile
