// The experts' activation (ops/moe/swiglu.h) on the GPU.
#pragma once

#include "ops/elementwise/exp.cuh"
#include "ops/moe/swiglu.h"
#include "tile/convert.cuh"
#include "tile/scalar.cuh"

namespace cachalot::ops {

__device__ __forceinline__ void clamp_swiglu(float& g, float& u, float limit) {
  if (limit <= 0) return;
  // Comparisons, so that NaN stays NaN.
  if (g > limit) g = limit;
  if (u > limit) u = limit;
  if (u < -limit) u = -limit;
}

__device__ __forceinline__ float silu(float g) { return g / (1.0f + exp_f32_device(-g)); }

// The same bits for a g that bf16 holds and is_ordinary_gate allows, in a row of instructions
// without a branch, which a division has for its special cases: many of them overlap. Tried on a
// processor for each such g with a reciprocal that is exact or off by one unit in its last place,
// on which the bits of 2^-23 would depend.
__device__ __forceinline__ bool is_ordinary_gate(float g) {
  return (fabsf(g) <= 64.0f) & (fabsf(g) != 0x1p-23f);
}
__device__ __forceinline__ float silu_of_ordinary(float g) {
  const float divisor = 1.0f + exp_f32_in_range(-g);
  float reciprocal = tile::approximate_reciprocal(divisor);
  reciprocal = fmaf(reciprocal, fmaf(-divisor, reciprocal, 1.0f), reciprocal);
  const float quotient = g * reciprocal;
  const float excess = fmaf(divisor, quotient, -g);
  return fmaf(-excess, reciprocal, quotient);  // -0 too: 0 is taken from it
}

// silu(g) * u, clamped before.
__device__ __forceinline__ float swiglu_value(float g, float u, float limit) {
  clamp_swiglu(g, u, limit);
  return silu(g) * u;
}

// The same clamps for a limit above 0 and what is rounded to bf16 afterwards, where a NaN is a NaN.
__device__ __forceinline__ void clamp_swiglu_above_0(float& g, float& u, float limit) {
  g = tile::min_or_nan(g, limit);
  u = tile::max_or_nan(tile::min_or_nan(u, limit), -limit);
}

// Of an element.
struct Swiglu {
  SwigluParams p;
  __device__ void operator()(int64_t row, int64_t column) const {
    const int64_t at = row * p.columns + column;
    float h = swiglu_value(p.gate[at], p.up[at], p.limit);
    if (p.weight != nullptr) h = p.weight[row] * h;
    p.h[at] = p.round_h ? tile::round_to_bf16(h) : h;
  }
};

}  // namespace cachalot::ops
