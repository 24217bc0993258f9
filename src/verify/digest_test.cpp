#include "verify/digest.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"

namespace cachalot::verify {
namespace {

std::vector<float> normal(size_t size, uint64_t index) {
  RngStream rng(3, RngPurpose::data, index);
  std::vector<float> values(size);
  for (float& v : values) v = static_cast<float>(rng.next_normal());
  return values;
}

double norm_of_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double squares = 0;
  for (size_t i = 0; i < a.size(); ++i) squares += std::pow(double{a[i]} - double{b[i]}, 2);
  return std::sqrt(squares);
}

// The outputs of splitmix64 from 0 as its authors print them; bench/transformers/trim_golden.py
// makes the same signs.
TEST(Digest, SignsAreBitsOfSplitmix64) {
  const uint64_t outputs[] = {0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F};
  for (size_t j = 0; j < 3; ++j) {
    std::vector<float> one(3);
    one[j] = 1;
    const std::vector<double> sums = signed_sums(one, kMaxSums);
    for (int64_t k = 0; k < kMaxSums; ++k)
      EXPECT_EQ(sums[k], outputs[j] >> k & 1 ? -1 : 1) << j << ", " << k;
  }
}

TEST(Digest, EstimatesTheNormOfADifference) {
  for (uint64_t i = 0; i < 200; ++i) {
    const std::vector<float> expected = normal(500, 2 * i), noise = normal(500, 2 * i + 1);
    std::vector<float> found = expected;
    for (size_t j = 0; j < found.size(); ++j) found[j] += 1e-3f * noise[j];
    const double distance = norm_of_difference(expected, found);
    const double estimate = estimated_distance(signed_sums(expected, 16), signed_sums(found, 16));
    // The square is a mean of 16 squares of nearly normal values: within these factors in all but
    // two of a million cases.
    EXPECT_GT(estimate, 0.3 * distance);
    EXPECT_LT(estimate, 2.0 * distance);
  }
}

TEST(Digest, SeesASingleElementWhole) {
  const std::vector<float> expected = normal(500, 1);
  for (const size_t j : {0u, 250u, 499u}) {
    std::vector<float> found = expected;
    found[j] += 0.25f;
    EXPECT_NEAR(estimated_distance(signed_sums(expected, 4), signed_sums(found, 4)), 0.25, 1e-6);
  }
}

TEST(Digest, MovesByTheDistance) {
  const std::vector<float> values = normal(500, 1);
  const std::vector<float> other = moved(values, 0.5);
  EXPECT_NEAR(norm_of_difference(values, other), 0.5, 1e-5);
  EXPECT_NEAR(estimated_distance(signed_sums(values, 32), signed_sums(other, 32)), 0.5, 0.25);
}

}  // namespace
}  // namespace cachalot::verify
