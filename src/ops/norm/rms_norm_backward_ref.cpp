#include <cmath>

#include "ops/norm/rms_norm_kernels.h"

namespace cachalot::ops {

void rms_norm_backward_rows_ref(const RmsNormBackwardParams& p, float* factors, int64_t first_row,
                                int64_t last_row) {
  const auto columns = static_cast<float>(p.columns);
  for (int64_t row = first_row; row < last_row; ++row) {
    const float* x = p.x + row * p.x_stride;
    const float* dy = p.dy + row * p.dy_stride;
    float* dx = p.dx + row * p.dx_stride;
    const auto h = [&](int64_t i) { return p.g != nullptr ? p.g[i] * dy[i] : dy[i]; };
    const float r = 1.0f / std::sqrt(sum_squares_ref(x, p.columns) / columns + p.eps);
    factors[row] = r;
    float chain[16] = {};
    for (int64_t i = 0; i < p.columns; ++i) chain[i % 16] = std::fma(h(i), x[i], chain[i % 16]);
    for (int64_t half = 8; half > 0; half /= 2) {
      for (int64_t i = 0; i < half; ++i) chain[i] += chain[i + half];
    }
    const float b = chain[0] / columns * r * r * r;
    for (int64_t i = 0; i < p.columns; ++i) dx[i] += std::fma(-b, x[i], h(i) * r);
  }
}

void rms_norm_backward_gain_ref(const RmsNormBackwardParams& p, const float* factors,
                                int64_t first_column, int64_t last_column) {
  for (int64_t row = 0; row < p.rows; ++row) {
    const float* x = p.x + row * p.x_stride;
    const float* dy = p.dy + row * p.dy_stride;
    for (int64_t i = first_column; i < last_column; ++i)
      p.dg[i] = std::fma(dy[i], x[i] * factors[row], p.dg[i]);
  }
}

}  // namespace cachalot::ops
