#include "base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace cachalot {
namespace {

// The known-answer vectors that the generator's authors publish for philox4x32 with ten rounds.
TEST(Philox, PublishedKnownAnswers) {
  using Block = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RngStream, IsAFunctionOfItsKey) {
  RngStream a(7, RngPurpose::sampling, 3), b(7, RngPurpose::sampling, 3);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.next_u32(), b.next_u32());
}

TEST(RngStream, SeedPurposeAndIndexEachGiveAnotherStream) {
  std::set<uint64_t> firsts;
  int num_streams = 0;
  for (uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32, ~uint64_t{0}}) {
    for (RngPurpose purpose : {RngPurpose::sampling, RngPurpose::weights, RngPurpose::data}) {
      for (uint64_t index : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32, ~uint64_t{0}}) {
        RngStream stream(seed, purpose, index);
        const uint64_t high = stream.next_u32();
        firsts.insert(high << 32 | stream.next_u32());
        ++num_streams;
      }
    }
  }
  EXPECT_EQ(static_cast<int>(firsts.size()), num_streams);
}

// Sums of n independent uniforms have standard deviation sqrt(n / 12); five of them bound a
// fixed-seed test generously.
TEST(RngStream, NeighbouringStreamsAreUncorrelated) {
  constexpr int kNum = 100'000;
  RngStream a(1, RngPurpose::data, 0), b(1, RngPurpose::data, 1);
  double product = 0;
  for (int i = 0; i < kNum; ++i) product += (a.next_unit() - 0.5) * (b.next_unit() - 0.5);
  EXPECT_LT(std::fabs(product), 5 * std::sqrt(kNum) / 12);
}

TEST(RngStream, UnitsFillTheHalfOpenInterval) {
  constexpr int kNum = 200'000;
  RngStream stream(3, RngPurpose::weights, 9);
  double sum = 0, low = 1, high = 0;
  for (int i = 0; i < kNum; ++i) {
    const double unit = stream.next_unit();
    ASSERT_GE(unit, 0.0);
    ASSERT_LT(unit, 1.0);
    sum += unit;
    low = std::min(low, unit);
    high = std::max(high, unit);
  }
  EXPECT_LT(std::fabs(sum - kNum * 0.5), 5 * std::sqrt(kNum / 12.0));
  EXPECT_LT(low, 1e-4);
  EXPECT_GT(high, 1 - 1e-4);
}

TEST(RngStream, NormalsHaveTheMomentsOfANormal) {
  constexpr int kNum = 2'000'000;
  RngStream stream(4, RngPurpose::weights, 1);
  double sums[5] = {};
  for (int i = 0; i < kNum; ++i) {
    const double x = stream.next_normal();
    ASSERT_TRUE(std::isfinite(x));
    double moment = 1;
    for (int power = 1; power <= 4; ++power) sums[power] += moment *= x;
  }
  // Standard deviations of the sample moments of N(0,1): sqrt(1/n), sqrt(2/n), sqrt(15/n),
  // sqrt(96/n).
  EXPECT_LT(std::fabs(sums[1] / kNum), 5 * std::sqrt(1.0 / kNum));
  EXPECT_LT(std::fabs(sums[2] / kNum - 1), 5 * std::sqrt(2.0 / kNum));
  EXPECT_LT(std::fabs(sums[3] / kNum), 5 * std::sqrt(15.0 / kNum));
  EXPECT_LT(std::fabs(sums[4] / kNum - 3), 5 * std::sqrt(96.0 / kNum));
}

}  // namespace
}  // namespace cachalot
