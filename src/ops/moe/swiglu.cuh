// The experts' activation (ops/moe/swiglu.h) of an element on the GPU.
#pragma once

#include "ops/elementwise/exp.cuh"
#include "ops/moe/swiglu.h"
#include "tile/convert.cuh"

namespace cachalot::ops {

struct Swiglu {
  SwigluParams p;
  __device__ void operator()(int64_t row, int64_t column) const {
    const int64_t at = row * p.columns + column;
    float g = p.gate[at];
    float u = p.up[at];
    if (p.limit > 0) {
      // Comparisons, so that NaN stays NaN.
      if (g > p.limit) g = p.limit;
      if (u > p.limit) u = p.limit;
      if (u < -p.limit) u = -p.limit;
    }
    float h = g / (1.0f + exp_f32_device(-g)) * u;
    if (p.weight != nullptr) h = p.weight[row] * h;
    p.h[at] = p.round_h ? tile::round_to_bf16(h) : h;
  }
};

}  // namespace cachalot::ops
