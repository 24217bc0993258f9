// ops/elementwise/exp.h on the GPU: the same bits.
#pragma once

#include <cstdint>

#include "ops/elementwise/exp_constants.h"

namespace cachalot::ops {

// Of x from kExpMinArgument to kExpMaxArgument.
__device__ __forceinline__ float exp_f32_in_range(float x) {
  const float shifted = fmaf(x, kLog2E, kRoundToInteger);
  const float n = shifted - kRoundToInteger;
  const float r = fmaf(-n, kLn2Low, fmaf(-n, kLn2High, x));
  float p = fmaf(kExpC6, r, kExpC5);
  p = fmaf(p, r, kExpC4);
  p = fmaf(p, r, kExpC3);
  p = fmaf(p, r, kExpC2);
  p = fmaf(p, r, 1.0f);
  p = fmaf(p, r, 1.0f);
  return __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
}

__device__ __forceinline__ float exp_f32_device(float x) {
  const float y = exp_f32_in_range(x);
  if (x != x) return x;
  if (x > kExpMaxArgument) return __uint_as_float(0x7F800000u);
  return x < kExpMinArgument ? 0.0f : y;
}

}  // namespace cachalot::ops
