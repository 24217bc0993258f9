#include "ops/rope/rope.h"

#include <numbers>

#include "ops/elementwise/kernel_test.h"

namespace cachalot::ops {
namespace {

// reference/forward 12.
constexpr float kPlain[32] = {1,
                              0.749894202,
                              0.562341332,
                              0.421696514,
                              0.316227764,
                              0.237137392,
                              0.177827939,
                              0.133352146,
                              0.100000001,
                              0.0749894157,
                              0.0562341288,
                              0.0421696492,
                              0.0316227786,
                              0.0237137359,
                              0.0177827943,
                              0.0133352149,
                              0.00999999978,
                              0.00749894232,
                              0.00562341325,
                              0.00421696482,
                              0.00316227786,
                              0.00237137382,
                              0.00177827943,
                              0.00133352145,
                              0.00100000005,
                              0.000749894185,
                              0.000562341302,
                              0.000421696546,
                              0.000316227786,
                              0.000237137385,
                              0.00017782794,
                              0.00013335215};
constexpr float kCompressed[32] = {1,
                                   0.687656045,
                                   0.472870797,
                                   0.325172424,
                                   0.223606795,
                                   0.153764561,
                                   0.105737135,
                                   0.0727107748,
                                   0.0500000007,
                                   0.0343828015,
                                   0.0236435384,
                                   0.0162586235,
                                   0.0111803403,
                                   0.00768822804,
                                   0.00528685609,
                                   0.00363553851,
                                   0.00226562493,
                                   0.00139680132,
                                   0.000849689706,
                                   0.000508081983,
                                   0.000296977785,
                                   0.000168179977,
                                   9.08678412e-05,
                                   4.5444227e-05,
                                   1.95312532e-05,
                                   5.37231244e-06,
                                   3.69430336e-06,
                                   2.5404097e-06,
                                   1.74692798e-06,
                                   1.20128561e-06,
                                   8.260713e-07,
                                   5.6805294e-07};

const YarnParams kYarn{16, 65536, 32, 1};

int64_t ulps_apart(float a, float b) {
  return std::abs(std::bit_cast<int32_t>(a) - std::bit_cast<int32_t>(b));
}

void expect_table(const std::vector<float>& found, const float (&expected)[32]) {
  ASSERT_EQ(found.size(), 32u);
  int num_exact = 0;
  for (size_t i = 0; i < 32; ++i) {
    EXPECT_LE(ulps_apart(found[i], expected[i]), 2) << i << ": " << found[i] << " " << expected[i];
    num_exact += found[i] == expected[i];
  }
  ::testing::Test::RecordProperty("equal_to_the_bit", num_exact);
}

TEST(RopeFrequencies, PlainTable) { expect_table(rope_frequencies(64, 10000, {}), kPlain); }

TEST(RopeFrequencies, CompressedTable) {
  expect_table(rope_frequencies(64, 160000, kYarn), kCompressed);
}

TEST(RopeFrequencies, YarnKeepsTheFirstAndDividesTheLast) {
  const std::vector<float> base = rope_frequencies(64, 160000, {});
  const std::vector<float> yarn = rope_frequencies(64, 160000, kYarn);
  for (size_t i = 0; i <= 15; ++i) EXPECT_EQ(yarn[i], base[i]) << i;
  for (size_t i = 16; i < 25; ++i) EXPECT_TRUE(yarn[i] < base[i] && yarn[i] > base[i] / 16) << i;
  for (size_t i = 25; i < 32; ++i) EXPECT_EQ(yarn[i], base[i] / 16) << i;
}

// A context so short that no pair turns once: both bounds are 0, which must not divide by zero.
TEST(RopeFrequencies, EqualBoundsStayFinite) {
  for (float frequency : rope_frequencies(8, 10000, {16, 4, 32, 1})) {
    EXPECT_TRUE(std::isfinite(frequency) && frequency > 0);
  }
}

const std::vector<int64_t> kPositions = {0, 1, 2, 127, 128, 65535, 65536, 1048575};

TEST(RopeTable, IsTheCosineOfTheRoundedAngle) {
  for (const auto& frequencies :
       {rope_frequencies(64, 10000, {}), rope_frequencies(64, 160000, kYarn)}) {
    TestContext context(device::Isa::reference, 2);
    const auto n = static_cast<int64_t>(kPositions.size());
    const RopeTable table = rope_table(context, frequencies, kPositions.data(), n);
    for (size_t t = 0; t < kPositions.size(); ++t) {
      for (size_t i = 0; i < 32; ++i) {
        const float angle = static_cast<float>(kPositions[t]) * frequencies[i];
        // Half an ulp of fp32, and what long double and double differ by.
        EXPECT_LE(ulp_distance(table.cos[t * 32 + i], std::cos(static_cast<long double>(angle))),
                  0.5001);
        EXPECT_LE(ulp_distance(table.sin[t * 32 + i], std::sin(static_cast<long double>(angle))),
                  0.5001);
      }
    }
  }
}

struct Case {
  int64_t rows, heads, head_dim, rope_dim, padding;
  bool inverse, round_x;
};

std::vector<float> run(device::ExecContext& ctx, const Case& c, std::vector<float> x) {
  const std::vector<float> frequencies = rope_frequencies(c.rope_dim, 10000, {});
  std::vector<int64_t> positions;
  for (int64_t t = 0; t < c.rows; ++t)
    positions.push_back(kPositions[static_cast<size_t>(t) % 8] + t);
  const RopeTable table = rope_table(ctx, frequencies, positions.data(), c.rows);
  rope(ctx, {x.data(), c.rows, c.heads * c.head_dim + c.padding, c.heads, c.head_dim, c.rope_dim,
             table, c.inverse, c.round_x});
  return x;
}

std::vector<float> input(const Case& c, uint64_t seed) {
  return rounded_to_bf16(random_values(c.rows * (c.heads * c.head_dim + c.padding), seed));
}

TEST(Rope, EveryVersionHasTheReferenceBits) {
  std::vector<Case> cases;
  for (int64_t rope_dim = 2; rope_dim <= 36; rope_dim += 2) {
    cases.push_back({3, 2, rope_dim + rope_dim % 3, rope_dim, rope_dim % 5, rope_dim % 4 == 0,
                     rope_dim % 6 == 0});
  }
  cases.push_back({9, 64, 512, 64, 0, true, true});
  cases.push_back({70, 1, 128, 64, 3, false, true});
  cases.push_back({0, 1, 64, 64, 0, false, false});
  for (const Case& c : cases) {
    std::vector<float> x = input(c, 11);
    if (x.size() > 8) x[3] = kNan, x[7] = kInf;
    TestContext reference(device::Isa::reference);
    const std::vector<float> expected = run(reference, c, x);
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      expect_same_values(expected, run(ctx, c, x),
                         name + ", rope_dim " + std::to_string(c.rope_dim));
    });
  }
}

TEST(Rope, RotatesInterleavedPairsOfTheLastValuesOnly) {
  const Case c{8, 2, 24, 16, 5, false, false};
  const std::vector<float> x = input(c, 12);
  TestContext context(device::machine_isa());
  const std::vector<float> y = run(context, c, x);
  const std::vector<float> frequencies = rope_frequencies(16, 10000, {});
  for (int64_t t = 0; t < c.rows; ++t) {
    for (int64_t i = 0; i < 2 * 24 + 5; ++i) {
      const auto at = static_cast<size_t>(t * (2 * 24 + 5) + i);
      if (i >= 48 || i % 24 < 8) {
        EXPECT_EQ(y[at], x[at]) << t << " " << i;
        continue;
      }
      const int64_t pair = (i % 24 - 8) / 2;
      const float angle = static_cast<float>(kPositions[static_cast<size_t>(t)] + t) *
                          frequencies[static_cast<size_t>(pair)];
      const double cos = std::cos(static_cast<double>(angle));
      const double sin = std::sin(static_cast<double>(angle));
      const bool even = i % 2 == 0;
      const double expected = even ? x[at] * cos - x[at + 1] * sin : x[at - 1] * sin + x[at] * cos;
      // cos and sin carry half an ulp each, one product and the fma round once.
      const double size = std::fabs(x[at]) + std::fabs(x[even ? at + 1 : at - 1]);
      EXPECT_LE(std::fabs(y[at] - expected), 2 * 0x1p-24 * size) << t << " " << i;
    }
  }
}

TEST(Rope, InverseUndoesAndNoFactorIsApplied) {
  const Case forward{8, 3, 64, 64, 0, false, false};
  Case inverse = forward;
  inverse.inverse = true;
  const std::vector<float> x = input(forward, 13);
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    const std::vector<float> y = run(ctx, forward, x);
    const std::vector<float> back = run(ctx, inverse, y);
    for (size_t i = 0; i < x.size(); i += 2) {
      const double length = std::hypot(x[i], x[i + 1]);
      EXPECT_NEAR(std::hypot(y[i], y[i + 1]), length, 4 * 0x1p-23 * length) << name;
      EXPECT_NEAR(back[i], x[i], 8 * 0x1p-23 * length) << name;
      EXPECT_NEAR(back[i + 1], x[i + 1], 8 * 0x1p-23 * length) << name;
    }
  });
}

// The gradient of rope is its inverse: <R x, y> = <x, R^-1 y>. Both sides use the same cos and sin,
// whose square sum's half ulps are no part of this; a product and an fma round once each in both
// elements, 2 u |x| |y| on either side.
TEST(Rope, InverseIsTheAdjoint) {
  const Case forward{8, 3, 24, 16, 5, false, false};
  Case inverse = forward;
  inverse.inverse = true;
  const std::vector<float> x = input(forward, 15), y = input(forward, 16);
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    const std::vector<float> rx = run(ctx, forward, x), ry = run(ctx, inverse, y);
    for (size_t i = 0; i < x.size(); ++i) {
      // Elementwise over each row's pairs and the elements outside, so that no sum hides a wrong
      // one.
      const size_t column = i % 77, pair = column % 24;
      if (column >= 72 || pair < 8 || pair % 2 == 1) continue;
      const double left = double{rx[i]} * y[i] + double{rx[i + 1]} * y[i + 1];
      const double right = double{x[i]} * ry[i] + double{x[i + 1]} * ry[i + 1];
      EXPECT_NEAR(left, right,
                  8 * 0x1p-24 * std::hypot(x[i], x[i + 1]) * std::hypot(y[i], y[i + 1]))
          << name << " " << i;
    }
    // Entry by entry: the inverse's response to a unit gradient at i is row i of the forward's
    // matrix.
    const auto response = [&](const Case& c, size_t to) {
      std::vector<float> unit(x.size(), 0.0f);
      unit[to] = 1;
      return run(ctx, c, unit);
    };
    for (size_t i : {8u, 9u, 23u, 77u * 3 + 24 + 10}) {
      const size_t partner = i % 77 % 24 % 2 == 0 ? i + 1 : i - 1;
      for (size_t j : {i, partner})
        EXPECT_EQ(response(forward, j)[i], response(inverse, i)[j]) << name << " " << i << " " << j;
    }
  });
}

TEST(Rope, PositionZeroChangesNothing) {
  const Case c{1, 2, 64, 64, 0, false, true};
  const std::vector<float> x = input(c, 14);
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    expect_same_values(x, run(ctx, c, x), name);
  });
}

}  // namespace
}  // namespace cachalot::ops
