// What tests of kernels on the GPU share: the device and a stream, arrays on it, random operands,
// and comparisons. Without a GPU each test is skipped.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "device/cuda/device.h"
#include "device/cuda/memory.h"
#include "numeric/formats.h"

namespace cachalot::testing {

namespace cuda = device::cuda;

class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Result<cuda::Device> device = cuda::open_device(0);
    if (!device) GTEST_SKIP() << device.error().message();
    device_ = *device;
    stream_ = cuda::Stream::create();
  }

  cuda::DeviceBuffer room(int64_t num_bytes, uint8_t value = 0xFF) {
    Result<cuda::DeviceBuffer> buffer = cuda::DeviceBuffer::create(stream_, num_bytes);
    EXPECT_TRUE(buffer.has_value());
    cuda::fill(stream_, (*buffer).data(), value, num_bytes);  // 0xFF: NaN in bf16 and fp32
    return *std::move(buffer);
  }
  template <typename T>
  cuda::DeviceBuffer put(const std::vector<T>& values) {
    cuda::DeviceBuffer buffer = room(static_cast<int64_t>(values.size() * sizeof(T)));
    cuda::copy_to_device(stream_, buffer.data(), values.data(), buffer.size());
    stream_.synchronize();
    return buffer;
  }
  template <typename T>
  std::vector<T> get(const cuda::DeviceBuffer& buffer) {
    std::vector<T> values(static_cast<size_t>(buffer.size()) / sizeof(T));
    cuda::copy_to_host(stream_, values.data(), buffer.data(), buffer.size());
    stream_.synchronize();
    return values;
  }

  cuda::Device device_;
  cuda::Stream stream_;
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
