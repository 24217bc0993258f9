// The quantised products in double: what the kernels are compared with.
// Source  reference/forward 0.4, 0.5.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "numeric/formats.h"

namespace cachalot::testing {

// ACT8 with runs of 128, back to values.
inline std::vector<double> quantised(const std::vector<float>& x) {
  std::vector<double> q(x.size());
  for (size_t first = 0; first < x.size(); first += 128) {
    float amax = 1e-4f;
    for (size_t i = first; i < first + 128; ++i) amax = std::max(amax, std::fabs(x[i]));
    const float scale = numeric::pow2(numeric::pow2_ceil_exponent(amax * (1.0f / 448)));
    for (size_t i = first; i < first + 128; ++i) {
      q[i] = static_cast<double>(numeric::float_from_e4m3(numeric::e4m3_from_float(x[i] / scale))) *
             scale;
    }
  }
  return q;
}

struct Fp8Weight {
  std::vector<uint8_t> codes;   // [rows, columns]
  std::vector<uint8_t> scales;  // [ceil(rows / 128), columns / 128]
  int64_t rows, columns;
  double at(int64_t row, int64_t k) const {
    return static_cast<double>(numeric::float_from_e4m3(codes[row * columns + k])) *
           numeric::float_from_e8m0(scales[row / 128 * (columns / 128) + k / 128]);
  }
};

struct Fp4Weight {
  std::vector<uint8_t> codes;   // [rows, columns / 2]
  std::vector<uint8_t> scales;  // [rows, columns / 32]
  int64_t rows, columns;
  double at(int64_t row, int64_t k) const {
    const int code = codes[(row * columns + k) / 2] >> (k % 2 * 4) & 15;
    return static_cast<double>(numeric::float_from_e2m1(static_cast<uint8_t>(code))) *
           numeric::float_from_e8m0(scales[(row * columns + k) / 32]);
  }
};

// A dot product, the sum of its terms' magnitudes, and what the e4m3 tensor core may lose: its 32
// products and the sum so far (of a 128-input block) are aligned to the largest and cut 13 bits
// after its first.
struct Dot {
  double value = 0;
  double magnitude = 0;
  double truncation = 0;
};
template <typename Weight>
Dot dot(const double* x, const Weight& w, int64_t row) {
  Dot d;
  double largest = 0, block = 0;
  for (int64_t k = 0; k < w.columns; ++k) {
    if (k % 128 == 0) block = 0;
    if (k % 32 == 0) largest = std::fabs(block);
    const double term = x[k] * w.at(row, k);
    d.value += term;
    d.magnitude += std::fabs(term);
    block += term;
    largest = std::max(largest, std::fabs(term));
    if (k % 32 == 31) d.truncation += 33 * 0x1p-13 * largest;
  }
  return d;
}

// Of a sum in one of the forms, before its rounding to bf16.
//   mma: each addition off by at most 2^-23 of the magnitude (the tensor core truncates to fp32):
//        one for each instruction of 16 inputs, each of whose 17 addends may lose as much; then the
//        chains of blocks and their sum.
inline double mma_bound(const Dot& d, int64_t columns, int chains = 8) {
  const double blocks = static_cast<double>(columns) / 128;
  return d.magnitude * 0x1p-23 * (8 * 17 + blocks / chains + chains);
}
inline double wgmma_bound(const Dot& d, int64_t columns, int chains = 8) {
  return d.truncation + mma_bound(d, columns, chains);
}
inline double bf16_bound(double value) { return std::fabs(value) * 0x1p-8 + 0x1p-126; }

}  // namespace cachalot::testing
