// What tests of kernels on the GPU share: the device and arrays on it, random operands, and
// comparisons. Without a GPU each test is skipped.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "numeric/formats.h"
#include "tests/cuda/device_arrays.h"

namespace cachalot::testing {

class CudaTest : public ::testing::Test, public DeviceArrays {
 protected:
  void SetUp() override {
    const Result<cuda::Device> device = cuda::open_device(0);
    if (!device) GTEST_SKIP() << device.error().message();
    open(*device);
  }
};

using Rng = std::mt19937;

inline std::vector<uint16_t> random_bf16(Rng& rng, int64_t count, float size = 1) {
  std::normal_distribution<float> normal(0, size);
  std::vector<uint16_t> values(static_cast<size_t>(count));
  for (uint16_t& value : values) value = numeric::bf16_from_float(normal(rng));
  return values;
}
inline std::vector<float> random_floats(Rng& rng, int64_t count, float size = 1) {
  std::normal_distribution<float> normal(0, size);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(rng);
  return values;
}
// Bytes below `bound`; of e4m3 none is NaN.
inline std::vector<uint8_t> random_bytes(Rng& rng, int64_t count, int first, int bound) {
  std::uniform_int_distribution<int> uniform(first, bound - 1);
  std::vector<uint8_t> values(static_cast<size_t>(count));
  for (uint8_t& value : values) value = static_cast<uint8_t>(uniform(rng));
  return values;
}
inline std::vector<uint8_t> random_e4m3(Rng& rng, int64_t count) {
  std::vector<uint8_t> codes = random_bytes(rng, count, 0, 256);
  for (uint8_t& code : codes) {
    if ((code & 0x7F) == 0x7F) code ^= 0x40;
  }
  return codes;
}

inline std::vector<float> floats_of(const std::vector<uint16_t>& bf16) {
  std::vector<float> values(bf16.size());
  for (size_t i = 0; i < bf16.size(); ++i) values[i] = numeric::float_from_bf16(bf16[i]);
  return values;
}

// |a - b| / |b| over all values, and the worst |a - b| - bound, where a bound is given for each.
struct Difference {
  double relative = 0;
  double worst_over_bound = -1;
  int64_t worst_at = 0;
  int64_t num_nan = 0;
};
inline Difference difference(const std::vector<float>& found, const std::vector<double>& expected,
                             const std::vector<double>& bound) {
  Difference d;
  double error = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(found[i])) {
      ++d.num_nan;
      continue;
    }
    const double e = std::fabs(found[i] - expected[i]);
    error += e * e;
    size += expected[i] * expected[i];
    if (!bound.empty() && e / bound[i] > d.worst_over_bound) {
      d.worst_over_bound = e / bound[i];
      d.worst_at = static_cast<int64_t>(i);
    }
  }
  d.relative = std::sqrt(error / (size > 0 ? size : 1));
  return d;
}

}  // namespace cachalot::testing
