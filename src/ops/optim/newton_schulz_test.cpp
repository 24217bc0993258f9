#include "ops/optim/newton_schulz.h"

#include <span>

#include "ops/elementwise/kernel_test.h"
#include "ops/optim/newton_schulz_kernels.h"

namespace cachalot::ops {
namespace {

using Matrices = std::vector<std::vector<float>>;

Matrices random_matrices(int64_t count, int64_t rows, int64_t columns) {
  Matrices u;
  for (int64_t i = 0; i < count; ++i) {
    u.push_back(random_values(rows * columns, static_cast<uint64_t>(100 + i)));
  }
  return u;
}

Matrices run(device::ExecContext& ctx, const Matrices& u, int64_t rows, int64_t columns,
             bool round_operands = false) {
  Matrices out = u;
  std::vector<const float*> from;
  std::vector<float*> to;
  for (size_t i = 0; i < u.size(); ++i) from.push_back(u[i].data()), to.push_back(out[i].data());
  newton_schulz(ctx, {rows, columns, from, to, round_operands});
  return out;
}

double polynomial_trace(double s) {
  for (int i = 0; i < kNumNewtonSchulzSteps; ++i) {
    const NewtonSchulzStep p = newton_schulz_step(i);
    s = p.a * s + p.b * s * s * s + p.c * s * s * s * s * s;
  }
  return s;
}

// reference/training 3.3, "Exact behaviour". The table prints four decimals (three for the small
// inputs) and rounds the upper ends of its ranges up, so a comparison can be as close as that; what
// is exact in theory is held to 1e-6.
TEST(NewtonSchulz, ScalarTraceIsTheTable) {
  // The ten polynomials in 60 decimal digits.
  const double traced[][2] = {
      {1e-6, 0.079142284740}, {1e-5, 0.685827121668},   {2e-5, 0.966863536271},
      {5e-5, 1.000001218325}, {0.001, 1.000001205748},  {0.1, 1.000060706348},
      {0.3, 1.000129924883},  {0.6818, 1.000537157979}, {1, 1.000014309583}};
  for (const auto& [s, end] : traced) EXPECT_NEAR(polynomial_trace(s), end, 1e-9) << s;

  double lowest = 2, highest = 0, highest_small = 0;
  for (double s = 5e-5; s <= 1; s *= 1.0005) {
    const double end = polynomial_trace(s);
    if (s >= 1.5e-4) lowest = std::min(lowest, end), highest = std::max(highest, end);
    highest_small = std::max(highest_small, end);
    EXPECT_GE(end, 1 - 1e-6) << s;
  }
  EXPECT_NEAR(lowest, 1.0000, 1e-6);
  EXPECT_LE(highest, 1.0006);
  EXPECT_GT(highest, 1.0005);
  EXPECT_LE(highest_small, 1.0021);
  EXPECT_GT(highest_small, 1.0020);
  EXPECT_NEAR(polynomial_trace(2e-5), 0.967, 5e-4);
  EXPECT_NEAR(polynomial_trace(1e-5), 0.686, 5e-4);
  EXPECT_NEAR(polynomial_trace(1e-6), 0.079, 5e-4);
  EXPECT_NEAR(polynomial_trace(1e-12) / 1e-12 / 7.9e4, 1, 0.01);

  // Stage 1: the highest value of one pass over (0, 1], and the band that it maps into itself from
  // there on.
  const NewtonSchulzStep p = newton_schulz_step(0);
  const auto step = [&p](double s) { return p.a * s + p.b * s * s * s + p.c * std::pow(s, 5); };
  double overshoot = 0;
  for (double s = 0; s <= 1; s += 1e-5) overshoot = std::max(overshoot, step(s));
  EXPECT_NEAR(overshoot, 1.2024, 5e-5);
  double low = 1, high = 1;
  for (double s = 1e-3; s <= 1; s += 1e-5) {
    double x = s;
    for (int i = 0; i < 40; ++i) {
      x = step(x);
      if (i >= 20) low = std::min(low, x), high = std::max(high, x);
    }
  }
  EXPECT_NEAR(low, 0.6818, 5e-5);
  EXPECT_NEAR(high, 1.1344, 5e-5);

  // Stage 2 near 1: p(1) = 1, p'(1) = 0, p(1 + e) about 1 + e^2 / 2.
  const NewtonSchulzStep q = newton_schulz_step(9);
  EXPECT_DOUBLE_EQ(q.a + q.b + q.c, 1);
  EXPECT_DOUBLE_EQ(q.a + 3 * q.b + 5 * q.c, 0);
  const double e = 1e-4;
  EXPECT_NEAR(q.a * (1 + e) + q.b * std::pow(1 + e, 3) + q.c * std::pow(1 + e, 5), 1 + e * e / 2,
              1e-6 * e);
}

TEST(NewtonSchulz, EveryVersionHasTheReferenceBits) {
  // Widths of every remainder of 16 and of a panel, k around the depth of a block, both
  // orientations.
  const int64_t shapes[][2] = {{1, 1},    {1, 9},   {9, 1},   {3, 5},    {16, 15},
                               {17, 17},  {31, 64}, {64, 64}, {65, 66},  {70, 129},
                               {150, 33}, {5, 300}, {300, 6}, {131, 131}};
  TestContext reference(device::Isa::reference);
  for (const auto& [rows, columns] : shapes) {
    for (bool round : {false, true}) {
      const bool large = rows * columns > 1000;  // the reference takes its time
      if (large && round && rows == columns) continue;
      const Matrices u = random_matrices(large ? 1 : 3, rows, columns);
      const Matrices expected = run(reference, u, rows, columns, round);
      for_each_context([&](device::ExecContext& ctx, const std::string& name) {
        if (ctx.isa == device::Isa::reference && large) return;
        const Matrices found = run(ctx, u, rows, columns, round);
        for (size_t i = 0; i < u.size(); ++i) {
          expect_same_values(expected[i], found[i],
                             name + " " + std::to_string(rows) + "x" + std::to_string(columns));
        }
      });
    }
  }
}

TEST(NewtonSchulz, OnlyWhatOccupiesTheThreadsIsCutIntoTiles) {
  const double one = newton_schulz_flops(256, 256);
  EXPECT_TRUE(ns_takes_pool(256, 256, one, 2));
  EXPECT_TRUE(ns_takes_pool(256, 256, 3 * one, 2));
  EXPECT_FALSE(ns_takes_pool(256, 256, 8 * one, 2));
  EXPECT_TRUE(ns_takes_pool(256, 256, one, 64));  // alone: ten tiles at a time are better than one
  EXPECT_FALSE(ns_takes_pool(256, 256, 100 * one, 64));  // ten tiles would leave most threads idle
  EXPECT_FALSE(ns_takes_pool(64, 64, newton_schulz_flops(64, 64), 64));
  EXPECT_TRUE(ns_takes_pool(2048, 2048, 1e6 * one, 2));  // scratch
}

TEST(NewtonSchulz, AMatrixOfABatchHasTheBitsItHasAlone) {
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    const Matrices u = random_matrices(7, 40, 21);
    const Matrices together = run(ctx, u, 40, 21);
    for (size_t i = 0; i < u.size(); ++i) {
      expect_same_values(run(ctx, {u[i]}, 40, 21)[0], together[i], name);
    }
  });
}

TEST(NewtonSchulz, TransposingTransposesTheResult) {
  TestContext ctx(device::machine_isa(), 2);
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{37, 90}, {128, 16}, {1, 70}}) {
    const auto transposed = [rows = rows, columns = columns](const std::vector<float>& x) {
      std::vector<float> y(x.size());
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j)
          y[static_cast<size_t>(j * rows + i)] = x[static_cast<size_t>(i * columns + j)];
      }
      return y;
    };
    const Matrices u = random_matrices(1, rows, columns);
    expect_same_values(transposed(run(ctx, u, rows, columns)[0]),
                       run(ctx, {transposed(u[0])}, columns, rows)[0], "bits");
  }
}

TEST(NewtonSchulz, IsScaleFree) {
  TestContext ctx(device::machine_isa(), 2);
  const Matrices u = random_matrices(1, 40, 60);
  const std::vector<float> expected = run(ctx, u, 40, 60)[0];
  const auto scaled = [&](float factor) {
    Matrices v = u;
    for (float& x : v[0]) x *= factor;
    return run(ctx, v, 40, 60)[0];
  };
  expect_same_values(expected, scaled(0x1p-60f), "a power of two");
  expect_same_values(expected, scaled(0x1p+90f), "a power of two");
  // Another factor rounds every entry of u once more: 2^-24 relative. The derivative of the polar
  // factor is 2 / (s_i + s_j) (Frobenius), here at most 1 / s_min; singular values of a Gaussian 40
  // x 60 are at least sqrt(60) - sqrt(40) - 1 or so > 0.3, and |dU|_F <= 2^-24 |U|_F = 2^-24
  // sqrt(2400). The rounding of ten steps adds entries of a few 2^-24 each.
  const double bound = 0x1p-24 * (std::sqrt(2400.0) / 0.3 + 10 * 8);
  const std::vector<float> found = scaled(0.013f);
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], bound) << i;
}

TEST(NewtonSchulz, ZeroStaysZeroAndNanIsSeen) {
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    Matrices u = random_matrices(3, 20, 33);
    std::fill(u[1].begin(), u[1].end(), 0.0f);
    u[2][5] = kNan;
    const Matrices out = run(ctx, u, 20, 33);
    expect_same_values(std::vector<float>(20 * 33, 0.0f), out[1], name);
    EXPECT_TRUE(std::isfinite(out[0][5])) << name;
    for (float x : out[2]) EXPECT_TRUE(std::isnan(x)) << name;
    // The smallest float is as good a matrix as any.
    Matrices tiny = {{0x1p-149f, 0, 0, 0}};
    EXPECT_NEAR(run(ctx, tiny, 2, 2)[0][0], 1, 1e-3) << name;
  });
  TestContext ctx(device::machine_isa());
  EXPECT_TRUE(run(ctx, {}, 3, 4).empty());
  EXPECT_TRUE(run(ctx, {{}}, 0, 4)[0].empty());
}

// The columns of a tall result are orthonormal to what ten converged steps leave: U is random, so
// that every singular value is far above the 5e-5 of the table, and ends within 1.0006 (squared:
// 1.0013); off the diagonal the same bounds the error.
TEST(NewtonSchulz, AResultIsNearlyOrthogonal) {
  TestContext ctx(device::machine_isa(), 2);
  const int64_t rows = 200, columns = 90;
  const std::vector<float> o = run(ctx, random_matrices(1, rows, columns), rows, columns)[0];
  for (int64_t i = 0; i < columns; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      double dot = 0;
      for (int64_t k = 0; k < rows; ++k) {
        dot += static_cast<double>(o[static_cast<size_t>(k * columns + i)]) *
               o[static_cast<size_t>(k * columns + j)];
      }
      EXPECT_NEAR(dot, i == j ? 1 : 0, 1.3e-3);
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
