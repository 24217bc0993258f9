#include <cmath>

#include "numeric/formats.h"
#include "ops/elementwise/exp.h"
#include "ops/elementwise/fold16.h"
#include "ops/moe/swiglu_kernels.h"

namespace cachalot::ops {

void swiglu_ref(const SwigluParams& p, const Tile& tile) {
  for (int64_t row = tile.first_row; row < tile.last_row; ++row) {
    for (int64_t i = tile.first_column; i < tile.last_column; ++i) {
      float g = p.gate[row * p.columns + i];
      float u = p.up[row * p.columns + i];
      if (p.limit > 0) {
        // Comparisons, so that NaN stays NaN.
        if (g > p.limit) g = p.limit;
        if (u > p.limit) u = p.limit;
        if (u < -p.limit) u = -p.limit;
      }
      float h = g / (1.0f + exp_f32(-g)) * u;
      if (p.weight != nullptr) h = p.weight[row] * h;
      p.h[row * p.columns + i] = p.round_h ? numeric::round_to_bf16(h) : h;
    }
  }
}

void swiglu_backward_ref(const SwigluBackwardParams& p, int64_t first_row, int64_t last_row) {
  for (int64_t row = first_row; row < last_row; ++row) {
    const float weight = p.weight != nullptr ? p.weight[row] : 1.0f;
    float chains[16] = {};
    for (int64_t i = 0; i < p.columns; ++i) {
      const int64_t at = row * p.columns + i;
      float g = p.gate[at];
      float u = p.up[at];
      const bool gate_clamped = p.limit > 0 && g > p.limit;
      const bool up_clamped = p.limit > 0 && (u > p.limit || u < -p.limit);
      if (gate_clamped) g = p.limit;
      if (up_clamped) u = u > 0 ? p.limit : -p.limit;
      const float s = 1.0f / (1.0f + exp_f32(-g));
      const float silu = g * s;
      chains[i % 16] = std::fma(p.d_h[at], silu * u, chains[i % 16]);
      const float d_product = weight * p.d_h[at];
      p.d_gate[at] += gate_clamped ? 0.0f : d_product * u * (s * std::fma(g, 1.0f - s, 1.0f));
      p.d_up[at] += up_clamped ? 0.0f : d_product * silu;
    }
    if (p.d_weight != nullptr) p.d_weight[row] += fold16(chains);
  }
}

void moe_combine_ref(const MoeCombineParams& p, const Tile& tile) {
  for (int64_t row = tile.first_row; row < tile.last_row; ++row) {
    for (int64_t i = tile.first_column; i < tile.last_column; ++i) {
      float sum = 0;
      for (int64_t j = 0; j < p.k; ++j) sum += p.y[p.slots[row * p.k + j] * p.columns + i];
      if (p.shared != nullptr) sum += p.shared[row * p.columns + i];
      p.out[row * p.columns + i] = p.round_out ? numeric::round_to_bf16(sum) : sum;
    }
  }
}

}  // namespace cachalot::ops
