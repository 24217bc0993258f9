#include "ops/optim/stochastic_round.h"

#include "ops/elementwise/kernel_test.h"

namespace cachalot::ops {
namespace {

std::vector<uint16_t> round_all(const std::vector<float>& x, const StochasticRoundKey& key,
                                int64_t first = 0, int num_threads = 2) {
  TestContext ctx(device::machine_isa(), num_threads);
  std::vector<uint16_t> out(x.size());
  stochastic_round_bf16(ctx, key, first, x, out.data());
  return out;
}

constexpr StochasticRoundKey kKey{.seed = 0x123456789ABCDEF0, .step = 7, .tensor = 3, .rank = 1};

// reference/infrastructure Z4.
TEST(StochasticRound, TheMeanOfManyRoundingsIsTheValue) {
  const int64_t count = 1'000'000;
  for (float x : {1.001f, -3.14159f, 1e-20f, 0x1.8081p3f, 0x1.02p-126f * 0.37f}) {
    const std::vector<uint16_t> rounded = round_all(std::vector<float>(count, x), kKey);
    const auto bits = std::bit_cast<uint32_t>(x);
    const double below = numeric::float_from_bf16(static_cast<uint16_t>(bits >> 16));
    const double above = numeric::float_from_bf16(static_cast<uint16_t>((bits >> 16) + 1));
    double sum = 0;
    for (uint16_t code : rounded) {
      const double value = numeric::float_from_bf16(code);
      ASSERT_TRUE(value == below || value == above) << x;
      sum += value - x;
    }
    // Two values at distances p and 1 - p of their gap: sigma of the mean is gap sqrt(p (1 - p) /
    // count).
    const double gap = above - below, p = (x - below) / gap;
    EXPECT_LE(std::fabs(sum / count), 4 * std::fabs(gap) * std::sqrt(p * (1 - p) / count)) << x;
  }
}

TEST(StochasticRound, WhatBf16HoldsStays) {
  std::vector<float> x;
  for (uint32_t code = 0; code < 0x10000; ++code)
    x.push_back(numeric::float_from_bf16(static_cast<uint16_t>(code)));
  const std::vector<uint16_t> rounded = round_all(x, kKey);
  for (uint32_t code = 0; code < 0x10000; ++code) {
    if (std::isnan(x[code])) {
      EXPECT_TRUE(std::isnan(numeric::float_from_bf16(rounded[code]))) << code;
    } else {
      EXPECT_EQ(rounded[code], code);
    }
  }
  const float low_nan = std::bit_cast<float>(0x7F800001u);  // its upper half alone is infinity
  EXPECT_TRUE(std::isnan(numeric::float_from_bf16(round_all({low_nan}, kKey)[0])));
}

TEST(StochasticRound, DependsOnTheElementAndTheKeyNotOnCutsOrThreads) {
  const std::vector<float> x = random_values(50'001, 1);
  const std::vector<uint16_t> whole = round_all(x, kKey);
  EXPECT_EQ(round_all(x, kKey, 0, 1), whole);
  EXPECT_EQ(round_all(x, kKey, 0, 5), whole);
  std::vector<uint16_t> pieces;
  for (size_t begin = 0, size = 1; begin < x.size(); begin += size, size = size * 3 + 2) {
    const size_t end = std::min(x.size(), begin + size);
    const auto piece =
        round_all({x.begin() + static_cast<int64_t>(begin), x.begin() + static_cast<int64_t>(end)},
                  kKey, static_cast<int64_t>(begin));
    pieces.insert(pieces.end(), piece.begin(), piece.end());
  }
  EXPECT_EQ(pieces, whole);

  // Other keys give other draws.
  const auto differs = [&](StochasticRoundKey key) {
    const std::vector<uint16_t> other = round_all(x, key);
    int64_t count = 0;
    for (size_t i = 0; i < x.size(); ++i) count += other[i] != whole[i];
    // P(differ) = 2 p (1 - p), 1/3 on average over a uniform p: sigma of the count 105 of 16,667.
    return std::abs(static_cast<double>(count) - 50'001 / 3.0) < 6 * 106;
  };
  for (int field = 0; field < 4; ++field) {
    StochasticRoundKey key = kKey;
    if (field == 0) key.seed ^= uint64_t{1} << 40;
    if (field == 1) ++key.step;
    if (field == 2) ++key.tensor;
    if (field == 3) ++key.rank;
    EXPECT_TRUE(differs(key)) << field;
  }
}

}  // namespace
}  // namespace cachalot::ops
