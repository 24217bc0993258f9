// rms_norm_backward over F32x16 (elementwise/f32x16_*.h, included before this file).
#pragma once

#include "ops/norm/rms_norm_kernels.h"
#include "ops/norm/sum_squares_simd.h"

namespace cachalot::ops {
namespace {

void rms_norm_backward_rows_simd(const RmsNormBackwardParams& p, float* factors, int64_t first_row,
                                 int64_t last_row) {
  const auto columns = static_cast<float>(p.columns);
  for (int64_t row = first_row; row < last_row; ++row) {
    const float* x = p.x + row * p.x_stride;
    const float* dy = p.dy + row * p.dy_stride;
    float* dx = p.dx + row * p.dx_stride;
    const auto h = [&](int64_t i, int64_t left) {
      const F32x16 value = load_first(dy + i, left);
      return p.g != nullptr ? load_first(p.g + i, left) * value : value;
    };
    const float mean = sum_squares_simd(x, p.columns) / columns;
    const float r = 1.0f / __builtin_sqrtf(mean + p.eps);
    factors[row] = r;
    F32x16 chains = splat(0.0f);
    for (int64_t i = 0; i < p.columns; i += 16) {
      const int64_t left = p.columns - i;
      chains = fma(h(i, left), load_first(x + i, left), chains);
    }
    const float b = fold_sum(chains) / columns * r * r * r;
    const F32x16 minus_b = splat(-b), factor = splat(r);
    for (int64_t i = 0; i < p.columns; i += 16) {
      const int64_t left = p.columns - i;
      const F32x16 value = fma(minus_b, load_first(x + i, left), h(i, left) * factor);
      store_first(dx + i, left, load_first(dx + i, left) + value);
    }
  }
}

// kVectors vectors of columns over all rows, the sums in registers.
template <int kVectors>
void rms_norm_backward_gain_columns(const RmsNormBackwardParams& p, const float* factors,
                                    int64_t column, int64_t num_columns) {
  F32x16 sums[kVectors];
  for (int j = 0; j < kVectors; ++j)
    sums[j] = load_first(p.dg + column + 16 * j, num_columns - 16 * j);
  for (int64_t row = 0; row < p.rows; ++row) {
    const float* x = p.x + row * p.x_stride + column;
    const float* dy = p.dy + row * p.dy_stride + column;
    const F32x16 factor = splat(factors[row]);
    for (int j = 0; j < kVectors; ++j) {
      const int64_t left = num_columns - 16 * j;
      sums[j] = fma(load_first(dy + 16 * j, left), load_first(x + 16 * j, left) * factor, sums[j]);
    }
  }
  for (int j = 0; j < kVectors; ++j)
    store_first(p.dg + column + 16 * j, num_columns - 16 * j, sums[j]);
}

void rms_norm_backward_gain_simd(const RmsNormBackwardParams& p, const float* factors,
                                 int64_t first_column, int64_t last_column) {
  int64_t column = first_column;
  for (; column + 64 <= last_column; column += 64)
    rms_norm_backward_gain_columns<4>(p, factors, column, 64);
  for (; column < last_column; column += 16)
    rms_norm_backward_gain_columns<1>(p, factors, column, last_column - column);
}

}  // namespace
}  // namespace cachalot::ops
