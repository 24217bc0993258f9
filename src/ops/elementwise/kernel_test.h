// What the tests of kernels share: contexts for every instruction set and thread count, random
// rows, comparison by bits.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "base/rng.h"
#include "device/exec_context.h"
#include "numeric/formats.h"

namespace cachalot::ops {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInf = std::numeric_limits<float>::infinity();

// Owns what a context borrows.
class TestContext {
 public:
  explicit TestContext(device::Isa isa, int num_threads = 1)
      : pool_(num_threads), ctx_{&pool_, &arena_, isa} {}
  operator device::ExecContext&() { return ctx_; }
  device::ExecContext& operator*() { return ctx_; }

 private:
  ThreadPool pool_;
  device::Arena arena_;
  device::ExecContext ctx_;
};

// fn(ctx, name) for the reference on one thread, on 2 and on 5, then for each further instruction
// set of this machine likewise.
template <typename Fn>
void for_each_context(Fn&& fn) {
  for (device::Isa isa : device::machine_isas()) {
    for (int num_threads : {1, 2, 5}) {
      TestContext context(isa, num_threads);
      fn(*context,
         std::string(device::isa_name(isa)) + ", " + std::to_string(num_threads) + " threads");
    }
  }
}

// Normal values times spread^(normal), so that magnitudes differ.
inline std::vector<float> random_values(int64_t n, uint64_t index, double spread = 1.0) {
  RngStream rng(20260424, RngPurpose::data, index);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) {
    value = static_cast<float>(rng.next_normal() * std::pow(spread, rng.next_normal()));
  }
  return values;
}

inline std::vector<float> rounded_to_bf16(std::vector<float> values) {
  for (float& value : values) value = numeric::round_to_bf16(value);
  return values;
}

// Equal bits, where any NaN equals any other: which NaN an operation passes on is the processor's
// choice.
inline bool same_value(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

inline void expect_same_values(const std::vector<float>& expected, const std::vector<float>& found,
                               const std::string& what) {
  ASSERT_EQ(expected.size(), found.size()) << what;
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_TRUE(same_value(expected[i], found[i]))
        << what << ": element " << i << ": expected " << expected[i] << ", found " << found[i];
  }
}

// The same, NaN payloads included.
inline void expect_same_bits(const std::vector<float>& expected, const std::vector<float>& found,
                             const std::string& what) {
  ASSERT_EQ(expected.size(), found.size()) << what;
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(expected[i]), std::bit_cast<uint32_t>(found[i]))
        << what << ": element " << i << ": expected " << expected[i] << ", found " << found[i];
  }
}

// The distance of a float from a real number in units of the float's last place (of the smallest
// normal below that).
inline double ulp_distance(float found, double expected) {
  const double magnitude = std::max(std::fabs(expected), 0x1p-126);
  return std::fabs(static_cast<double>(found) - expected) /
         std::ldexp(1.0, std::ilogb(magnitude) - 23);
}

}  // namespace cachalot::ops
