#include <algorithm>
#include <cmath>

#include "numeric/formats.h"
#include "ops/quant/act_quant_kernels.h"

namespace cachalot::ops {
namespace {

float max_magnitude(const float* x, int64_t n) {
  float max = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float magnitude = std::fabs(x[i]);
    if (magnitude > max) max = magnitude;  // false for NaN
  }
  return max;
}

}  // namespace

int fp8_scale_exponent(const float* x, int64_t n, float amax_floor) {
  const float amax = std::max(max_magnitude(x, n), amax_floor);
  return std::min(numeric::pow2_ceil_exponent(amax * kInvE4m3Max), kMaxScaleExponent);
}

int fp4_scale_exponent(const float* x, int64_t n) {
  const float amax = std::max(max_magnitude(x, n), kFp4AmaxFloor);
  return std::min(numeric::pow2_ceil_exponent(amax * kInvE2m1Max), kMaxScaleExponent);
}

void simulate_fp8_ref(const RowsParams& p, int64_t block, float amax_floor, int64_t first_row,
                      int64_t last_row) {
  for (int64_t row = first_row; row < last_row; ++row) {
    for (int64_t begin = 0; begin < p.columns; begin += block) {
      const float* x = p.input(row) + begin;
      float* y = p.row(row) + begin;
      const int64_t n = std::min(block, p.columns - begin);
      const float scale = numeric::pow2(fp8_scale_exponent(x, n, amax_floor));
      for (int64_t i = 0; i < n; ++i) {
        y[i] = numeric::float_from_e4m3(numeric::e4m3_from_float(x[i] / scale)) * scale;
      }
    }
  }
}

void simulate_fp4_ref(const RowsParams& p, int64_t first_row, int64_t last_row) {
  for (int64_t row = first_row; row < last_row; ++row) {
    for (int64_t begin = 0; begin < p.columns; begin += 32) {
      const float* x = p.input(row) + begin;
      float* y = p.row(row) + begin;
      const float scale = numeric::pow2(fp4_scale_exponent(x, 32));
      for (int64_t i = 0; i < 32; ++i) {
        // e2m1 has no code for NaN.
        y[i] = std::isnan(x[i])
                   ? x[i]
                   : numeric::float_from_e2m1(numeric::e2m1_from_float(x[i] / scale)) * scale;
      }
    }
  }
}

void hadamard_ref(const RowsParams& p, float factor, bool round_bf16, int64_t first_row,
                  int64_t last_row) {
  for (int64_t row = first_row; row < last_row; ++row) {
    float* x = p.row(row);
    for (int64_t stride = 1; stride < p.columns; stride *= 2) {
      for (int64_t i = 0; i < p.columns; ++i) {
        if ((i & stride) != 0) continue;
        const float u = x[i];
        const float v = x[i + stride];
        x[i] = u + v;
        x[i + stride] = u - v;
      }
    }
    for (int64_t i = 0; i < p.columns; ++i) {
      x[i] *= factor;
      if (round_bf16) x[i] = numeric::round_to_bf16(x[i]);
    }
  }
}

void round_bf16_ref(const RowsParams& p, int64_t first_row, int64_t last_row) {
  for (int64_t row = first_row; row < last_row; ++row) {
    const float* x = p.input(row);
    float* y = p.row(row);
    for (int64_t i = 0; i < p.columns; ++i) y[i] = numeric::round_to_bf16(x[i]);
  }
}

}  // namespace cachalot::ops
