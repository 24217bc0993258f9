// The experts' activation (ops/moe/swiglu.h) on the GPU.
#pragma once

#include "ops/elementwise/exp.cuh"
#include "ops/moe/swiglu.h"
#include "tile/convert.cuh"

namespace cachalot::ops {

// silu(g) * u, clamped before.
__device__ __forceinline__ float swiglu_value(float g, float u, float limit) {
  if (limit > 0) {
    // Comparisons, so that NaN stays NaN.
    if (g > limit) g = limit;
    if (u > limit) u = limit;
    if (u < -limit) u = -limit;
  }
  return g / (1.0f + exp_f32_device(-g)) * u;
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
