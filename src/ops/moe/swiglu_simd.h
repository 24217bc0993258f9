// The experts' activation and their sum over F32x16 (elementwise/f32x16_*.h, included before this
// file).
#pragma once

#include "ops/moe/swiglu_kernels.h"

namespace cachalot::ops {
namespace {

void swiglu_simd(const SwigluParams& p, const Tile& tile) {
  const F32x16 limit = splat(p.limit);
  const F32x16 lowest = splat(-p.limit);
  const F32x16 one = splat(1.0f);
  const F32x16 sign = splat(-0.0f);
  for (int64_t row = tile.first_row; row < tile.last_row; ++row) {
    const int64_t begin = row * p.columns;
    for (int64_t i = tile.first_column; i < tile.last_column; i += 16) {
      const int64_t left = tile.last_column - i;
      F32x16 g = load_first(p.gate + begin + i, left);
      F32x16 u = load_first(p.up + begin + i, left);
      if (p.limit > 0) {
        g = min(limit, g);
        u = max(lowest, min(limit, u));
      }
      F32x16 h = g / (one + exp(g ^ sign)) * u;
      if (p.weight != nullptr) h = splat(p.weight[row]) * h;
      store_first(p.h + begin + i, left, p.round_h ? round_to_bf16(h) : h);
    }
  }
}

void swiglu_backward_simd(const SwigluBackwardParams& p, int64_t first_row, int64_t last_row) {
  const F32x16 limit = splat(p.limit);
  const F32x16 lowest = splat(-p.limit);
  const F32x16 one = splat(1.0f);
  const F32x16 sign = splat(-0.0f);
  for (int64_t row = first_row; row < last_row; ++row) {
    const int64_t begin = row * p.columns;
    const F32x16 weight = splat(p.weight != nullptr ? p.weight[row] : 1.0f);
    F32x16 chains = splat(0.0f);
    for (int64_t i = begin; i < begin + p.columns; i += 16) {
      const int64_t left = begin + p.columns - i;
      const F32x16 gate = load_first(p.gate + i, left);
      const F32x16 up = load_first(p.up + i, left);
      const F32x16 d_h = load_first(p.d_h + i, left);
      F32x16 g = gate;
      F32x16 u = up;
      if (p.limit > 0) {
        g = min(limit, g);
        u = max(lowest, min(limit, u));
      }
      const F32x16 s = one / (one + exp(g ^ sign));
      const F32x16 silu = g * s;
      chains = fma(d_h, silu * u, chains);
      const F32x16 d_product = weight * d_h;
      F32x16 d_gate = d_product * u * (s * fma(g, one - s, one));
      F32x16 d_up = d_product * silu;
      if (p.limit > 0) {
        d_gate = zero_where_greater(d_gate, gate, limit);
        d_up = zero_where_greater(zero_where_greater(d_up, up, limit), lowest, up);
      }
      store_first(p.d_gate + i, left, load_first(p.d_gate + i, left) + d_gate);
      store_first(p.d_up + i, left, load_first(p.d_up + i, left) + d_up);
    }
    if (p.d_weight != nullptr) p.d_weight[row] += fold_sum(chains);
  }
}

void moe_combine_simd(const MoeCombineParams& p, const Tile& tile) {
  for (int64_t row = tile.first_row; row < tile.last_row; ++row) {
    const int32_t* slots = p.slots + row * p.k;
    for (int64_t i = tile.first_column; i < tile.last_column; i += 16) {
      const int64_t left = tile.last_column - i;
      F32x16 sum = splat(0.0f);
      for (int64_t j = 0; j < p.k; ++j)
        sum = sum + load_first(p.y + slots[j] * p.columns + i, left);
      if (p.shared != nullptr) sum = sum + load_first(p.shared + row * p.columns + i, left);
      store_first(p.out + row * p.columns + i, left, p.round_out ? round_to_bf16(sum) : sum);
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
