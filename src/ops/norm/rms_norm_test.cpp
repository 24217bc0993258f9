#include "ops/norm/rms_norm.h"

#include "ops/elementwise/kernel_test.h"

namespace cachalot::ops {
namespace {

struct Case {
  int64_t rows, columns, stride;
  bool weighted, round_y;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (int64_t columns = 1; columns <= 33; ++columns) {
    all.push_back({3, columns, columns + columns % 5, columns % 2 == 0, columns % 3 == 0});
  }
  all.push_back({1, 4096, 4096, true, true});
  all.push_back({37, 1024, 1024, true, false});
  all.push_back({70, 511, 520, false, true});
  all.push_back({0, 16, 16, false, false});
  return all;
}

std::vector<float> run(device::ExecContext& ctx, const Case& c, std::vector<float> x,
                       bool bf16_steps) {
  const std::vector<float> g = random_values(c.columns, 2);
  RmsNormParams p{x.data(),  c.stride, c.weighted ? g.data() : nullptr,
                  x.data(),  c.stride, c.rows,
                  c.columns, 1e-6f,    c.round_y};
  bf16_steps ? rms_norm_bf16_steps(ctx, p) : rms_norm(ctx, p);
  return x;
}

TEST(RmsNorm, EveryVersionHasTheReferenceBits) {
  for (bool bf16_steps : {false, true}) {
    for (const Case& c : cases()) {
      std::vector<float> x = rounded_to_bf16(random_values(c.rows * c.stride, 1, 4.0));
      TestContext reference(device::Isa::reference);
      const std::vector<float> expected = run(reference, c, x, bf16_steps);
      for_each_context([&](device::ExecContext& ctx, const std::string& name) {
        expect_same_values(expected, run(ctx, c, x, bf16_steps),
                           name + ", columns " + std::to_string(c.columns));
      });
    }
  }
}

TEST(RmsNorm, NanAndInfinityStayInTheirRow) {
  for (float bad : {kNan, kInf, -kInf}) {
    const Case c{3, 21, 24, false, false};
    std::vector<float> x = random_values(3 * 24, 3);
    x[24 + 17] = bad;
    TestContext reference(device::Isa::reference);
    const std::vector<float> expected = run(reference, c, x, false);
    EXPECT_TRUE(std::isnan(expected[24 + 17]));
    EXPECT_TRUE(std::isfinite(expected[0]) && std::isfinite(expected[48]));
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      expect_same_values(expected, run(ctx, c, x, false), name);
    });
  }
}

// The sum has n / 16 + 4 roundings of positive terms, and half of its relative error reaches the
// root; quotient, root, sum with eps, and two products round once each.
TEST(RmsNorm, EqualsTheFormulaInDouble) {
  const int64_t n = 1000;
  const std::vector<float> x = random_values(n, 4, 3.0);
  const std::vector<float> g = random_values(n, 5);
  std::vector<float> y(x.size());
  TestContext ctx(device::machine_isa());
  rms_norm(ctx, {x.data(), n, g.data(), y.data(), n, 1, n, 1e-6f, false});
  double sum = 0;
  for (float value : x) sum += static_cast<double>(value) * value;
  const double factor = 1 / std::sqrt(sum / static_cast<double>(n) + 1e-6);
  const double tolerance = (n / 16.0 / 2 + 8) * 0x1p-24;
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = g[i] * (x[i] * factor);
    EXPECT_LE(std::fabs(y[i] - expected), tolerance * std::fabs(expected)) << i;
  }
}

TEST(RmsNorm, RoundsOnceAfterTheWeight) {
  // x * factor = 1 exactly up to eps; the product with g keeps g's low bits until the one rounding.
  const std::vector<float> x = {1.0f, 1.0f};
  const std::vector<float> g = {1.00390625f,
                                1.01171875f};  // halfway between bf16 neighbours: to even
  std::vector<float> y(2);
  TestContext ctx(device::Isa::reference);
  rms_norm(ctx, {x.data(), 2, g.data(), y.data(), 2, 1, 2, 0.0f, true});
  EXPECT_EQ(y[0], 1.0f);
  EXPECT_EQ(y[1], 1.015625f);
}

TEST(RmsNorm, AnAllZeroRowGivesZeros) {
  std::vector<float> x(40, 0.0f);
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    for (bool bf16_steps : {false, true}) {
      std::vector<float> y(40, 7.0f);
      RmsNormParams p{x.data(), 40, nullptr, y.data(), 40, 1, 40, 1e-6f, false};
      bf16_steps ? rms_norm_bf16_steps(ctx, p) : rms_norm(ctx, p);
      expect_same_values(x, y, name);
    }
  });
}

// Every intermediate of reference/forward 3.1, written out with a rounding of its own, on values
// where each of them matters.
TEST(RmsNormBf16Steps, RoundsAtEveryStep) {
  const auto bf16 = [](double value) {  // nearest even on the significand's 8 bits
    int exponent;
    const double significand = std::frexp(value, &exponent);
    return std::ldexp(std::nearbyint(std::ldexp(significand, 8)), exponent - 8);
  };
  bool differs_from_fp32 = false;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const int64_t n = 48;
    const std::vector<float> x = rounded_to_bf16(random_values(n, 100 + seed));
    double sum = 0;  // exact: bf16 squares of similar size
    double exact_sum = 0;
    for (float value : x) {
      sum += bf16(static_cast<double>(value) * value);
      exact_sum += static_cast<double>(value) * value;
    }
    const double a = bf16(static_cast<float>(sum / static_cast<double>(n)));
    const double b = bf16(static_cast<float>(a) + 1e-6f);
    const double g = bf16(1.0f / std::sqrt(static_cast<float>(b)));
    if (g != bf16(1 / std::sqrt(exact_sum / static_cast<double>(n)))) differs_from_fp32 = true;
    std::vector<float> y(x.size());
    TestContext ctx(device::machine_isa());
    rms_norm_bf16_steps(ctx, {x.data(), n, nullptr, y.data(), n, 1, n, 1e-6f, true});
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], bf16(x[i] * g)) << seed << " " << i;
  }
  EXPECT_TRUE(differs_from_fp32) << "the cases do not tell the steps from an fp32 norm";
}

TEST(RmsNormBf16Steps, SmallEpsilonIsLostAboveFiveTenThousandths) {
  // mean 1: bf16(1 + 1e-6) = 1, so the result is x itself.
  std::vector<float> x = {1.0f, -1.0f, 1.0f, -1.0f};
  TestContext ctx(device::Isa::reference);
  rms_norm_bf16_steps(ctx, {x.data(), 4, nullptr, x.data(), 4, 1, 4, 1e-6f, true});
  EXPECT_EQ(x, (std::vector<float>{1.0f, -1.0f, 1.0f, -1.0f}));
}

}  // namespace
}  // namespace cachalot::ops
