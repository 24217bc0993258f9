#include "optim/muon.h"

#include <cmath>
#include <span>

#include "ops/elementwise/kernel_test.h"
#include "ops/optim/newton_schulz.h"
#include "optim/parameter_groups.h"
#include "optim/spectrum.h"

namespace cachalot::optim {
namespace {

using ops::for_each_context;
using ops::random_values;
using ops::TestContext;

std::vector<float> orthogonalise(device::ExecContext& ctx, const std::vector<float>& u,
                                 int64_t rows, int64_t columns, bool round_operands) {
  std::vector<float> out(u.size());
  const float* from[] = {u.data()};
  float* to[] = {out.data()};
  ops::newton_schulz(ctx, {rows, columns, from, to, round_operands});
  return out;
}

// Square, wide and tall up to 8 : 1, all full rank.
constexpr int64_t kShapes[][2] = {{32, 32},  {64, 64},  {96, 96},  {48, 96},  {96, 48},
                                  {16, 128}, {128, 16}, {40, 120}, {24, 190}, {120, 72}};

// W starts at 0 and decay is off, so that W is -eta O.
std::vector<float> update_of(device::ExecContext& ctx, const std::vector<float>& g, int64_t rows,
                             int64_t columns, const MuonConfig& config) {
  std::vector<float> w(g.size(), 0.0f), m(g.size(), 0.0f);
  const MuonMatrix matrix{rows, columns, w.data(), g.data(), m.data()};
  muon_step(ctx, config, {.learning_rate = 1}, {&matrix, 1});
  return w;
}

double rms(const std::vector<float>& x) {
  double sum = 0;
  for (float value : x) sum += static_cast<double>(value) * value;
  return std::sqrt(sum / static_cast<double>(x.size()));
}

// reference/training M2.
TEST(Muon, SingularValuesEndAtOne) {
  TestContext ctx(device::machine_isa(), 2);
  uint64_t seed = 0;
  for (const auto& [rows, columns] : kShapes) {
    const std::vector<float> u = random_values(rows * columns, ++seed);
    const std::vector<double> before = singular_values(u, rows, columns);
    double norm = 0;
    for (double s : before) norm += s * s;
    ASSERT_GE(before.back() / std::sqrt(norm), 5e-5);  // the property speaks of these
    for (bool round : {false, true}) {
      const auto after =
          singular_values(orthogonalise(ctx, u, rows, columns, round), rows, columns);
      EXPECT_LE(after.front(), round ? 1.01 : 1.0021) << rows << "x" << columns;
      EXPECT_GE(after.back(), round ? 0.99 : 0.9999) << rows << "x" << columns;
    }
  }
}

// The same for singular values down to 5e-5 of the Frobenius norm, where the ten steps just reach.
TEST(Muon, SmallSingularValuesEndAtOneToo) {
  TestContext ctx(device::machine_isa(), 2);
  const int64_t rows = 40, columns = 60;
  // P diag(s) Q^T with P and Q from orthogonalised random matrices; s geometric from 1 to 1e-4,
  // whose norm is 2.2 or so. The factors are orthonormal to 1e-3 relative, which moves s by as
  // much.
  const auto p = orthogonalise(ctx, random_values(rows * rows, 1), rows, rows, false);
  const auto q = orthogonalise(ctx, random_values(rows * columns, 2), rows, columns, false);
  std::vector<float> u(static_cast<size_t>(rows * columns));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < rows; ++k) {
        sum += static_cast<double>(p[static_cast<size_t>(i * rows + k)]) *
               std::pow(1.3e-4, static_cast<double>(k) / (rows - 1)) *
               q[static_cast<size_t>(k * columns + j)];
      }
      u[static_cast<size_t>(i * columns + j)] = static_cast<float>(sum);
    }
  }
  const std::vector<double> before = singular_values(u, rows, columns);
  double norm = 0;
  for (double s : before) norm += s * s;
  const double smallest = before.back() / std::sqrt(norm);
  ASSERT_GE(smallest, 5e-5);
  ASSERT_LE(smallest, 1e-4);
  const auto after = singular_values(orthogonalise(ctx, u, rows, columns, false), rows, columns);
  EXPECT_LE(after.front(), 1.0021);
  EXPECT_GE(after.back(), 0.9999);
}

// reference/training M3.
TEST(Muon, UpdateRmsIsTheSameForEveryShape) {
  TestContext ctx(device::machine_isa(), 2);
  uint64_t seed = 20;
  for (const auto& [rows, columns] : kShapes) {
    const auto w = update_of(ctx, random_values(rows * columns, ++seed), rows, columns, {});
    EXPECT_NEAR(rms(w), 0.18, 0.0005) << rows << "x" << columns;
  }
}

// reference/training M4: the update does not know the gradient's scale, and that of a transposed
// gradient is transposed.
TEST(Muon, UpdateIsScaleFreeAndCommutesWithTransposition) {
  TestContext ctx(device::machine_isa(), 2);
  const int64_t rows = 30, columns = 70;
  std::vector<float> g = random_values(rows * columns, 40);
  const auto expected = update_of(ctx, g, rows, columns, {});
  std::vector<float> transposed(g.size());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j)
      transposed[static_cast<size_t>(j * rows + i)] = g[static_cast<size_t>(i * columns + j)];
  }
  const auto of_transposed = update_of(ctx, transposed, columns, rows, {});
  for (float& x : g) x *= 3e-7f;
  const auto of_scaled = update_of(ctx, g, rows, columns, {});
  // Scaling rounds every entry once, 2^-24 relative, which moves the polar factor by at most |dU|_F
  // / s_min; ten steps round by a few 2^-24 of every singular value; all times 0.18 sqrt(70).
  const double norm = rms(transposed) * std::sqrt(static_cast<double>(rows * columns));
  const double smallest = singular_values(transposed, columns, rows).back();
  const double bound = 0.18 * std::sqrt(70.0) * 0x1p-24 * (norm / smallest + 80 * std::sqrt(30.0));
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const auto at = static_cast<size_t>(i * columns + j);
      EXPECT_EQ(expected[at], of_transposed[static_cast<size_t>(j * rows + i)]);
      EXPECT_NEAR(expected[at], of_scaled[at], bound);
    }
  }
}

// reference/training M5.
TEST(Muon, ZeroGradientAndMomentumOnlyDecay) {
  for_each_context([](device::ExecContext& ctx, const std::string& name) {
    const std::vector<float> before = random_values(20 * 12, 50);
    std::vector<float> w = before, m(w.size(), 0.0f);
    const std::vector<float> g(w.size(), 0.0f);
    const MuonMatrix matrix{20, 12, w.data(), g.data(), m.data()};
    muon_step(ctx, {}, {.learning_rate = 0.02}, {&matrix, 1});
    const auto decay = static_cast<float>(1 - 0.02 * 0.1);
    for (size_t i = 0; i < w.size(); ++i) EXPECT_EQ(w[i], decay * before[i]) << name;
    for (float x : m) EXPECT_EQ(x, 0.0f) << name;
  });
}

// reference/training M6. With one G, U and M would have one direction; so G changes in the third
// step: M_3 = mu M_2 + G', and the update must be that of mu M_3 + G', not of M_3.
TEST(Muon, TheThirdStepLooksAheadWithTheNewMomentum) {
  TestContext ctx(device::machine_isa());
  const int64_t rows = 24, columns = 32;
  const std::vector<float> g = random_values(rows * columns, 60);
  const std::vector<float> g3 = random_values(rows * columns, 61);
  std::vector<float> w(g.size(), 0.0f), m(g.size(), 0.0f);
  MuonMatrix matrix{rows, columns, w.data(), g.data(), m.data()};
  const MuonConfig config{.weight_decay = 0};
  for (int i = 0; i < 2; ++i) muon_step(ctx, config, {1}, {&matrix, 1});
  // M_2 = 1.95 G: plain accumulation, without a factor 1 - mu.
  for (size_t i = 0; i < m.size(); ++i) EXPECT_NEAR(m[i], 1.95 * g[i], 4e-7 * std::fabs(g[i]));

  std::fill(w.begin(), w.end(), 0.0f);
  matrix.grad = g3.data();
  muon_step(ctx, config, {1}, {&matrix, 1});
  std::vector<float> look_ahead(g.size()), momentum(g.size());
  for (size_t i = 0; i < g.size(); ++i) {
    const double m3 = 0.95 * 1.95 * g[i] + g3[i];
    momentum[i] = static_cast<float>(m3);
    look_ahead[i] = static_cast<float>(0.95 * m3 + g3[i]);
  }
  const auto expected = update_of(ctx, look_ahead, rows, columns, {});
  const auto wrong = update_of(ctx, momentum, rows, columns, {});
  double to_expected = 0, to_wrong = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    to_expected += std::pow(static_cast<double>(w[i]) - expected[i], 2);
    to_wrong += std::pow(static_cast<double>(w[i]) - wrong[i], 2);
  }
  // Entries of U are off by 2^-23 of their size (three roundings), the polar factor by at most
  // |dU|_F / s_min; ten steps round by a few 2^-24 of every singular value; all times 0.18
  // sqrt(32).
  const std::vector<double> s = singular_values(look_ahead, rows, columns);
  double norm = 0;
  for (double value : s) norm += value * value;
  const double bound = 0.18 * std::sqrt(32.0) *
                       (0x1p-23 * std::sqrt(norm) / s.back() + 80 * 0x1p-24 * std::sqrt(24.0));
  EXPECT_LT(std::sqrt(to_expected), bound);
  EXPECT_GT(std::sqrt(to_wrong), 100 * bound);
}

// reference/training M7: [gate; up] in one tensor and in two.
TEST(Muon, StorageFusionChangesNothing) {
  const int64_t rows = 48, columns = 36;
  const auto half = static_cast<size_t>(rows * columns);
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    const std::vector<float> g = random_values(2 * rows * columns, 70);
    std::vector<float> fused = random_values(2 * rows * columns, 71), m(fused.size(), 0.0f);
    std::vector<float> gate(fused.begin(), fused.begin() + static_cast<int64_t>(half));
    std::vector<float> up(fused.begin() + static_cast<int64_t>(half), fused.end());
    std::vector<float> m_gate(half, 0.0f), m_up(half, 0.0f);

    std::vector<MuonMatrix> cut;
    for (const RowRange& range : cut_evenly(2 * rows, 2)) {
      const int64_t at = range.first_row * columns;
      cut.push_back({rows, columns, fused.data() + at, g.data() + at, m.data() + at});
    }
    const MuonMatrix gate_matrix{rows, columns, gate.data(), g.data(), m_gate.data()};
    const MuonMatrix up_matrix{rows, columns, up.data(), g.data() + half, m_up.data()};
    for (int i = 0; i < 2; ++i) {
      muon_step(ctx, {}, {.learning_rate = 0.01}, cut);
      muon_step(ctx, {}, {.learning_rate = 0.01}, {&gate_matrix, 1});
      muon_step(ctx, {}, {.learning_rate = 0.01}, {&up_matrix, 1});
    }
    gate.insert(gate.end(), up.begin(), up.end());
    ops::expect_same_values(gate, fused, name);
  });
}

TEST(Muon, GradScaleScalesTheGradientAgainstOldMomentum) {
  TestContext ctx(device::machine_isa());
  const std::vector<float> g = random_values(20 * 20, 80), m0 = random_values(20 * 20, 81);
  std::vector<float> w1(g.size(), 0.0f), m1 = m0, w2 = w1, m2 = m0, half = g;
  for (float& x : half) x *= 0.5f;
  const MuonMatrix scaled{20, 20, w1.data(), g.data(), m1.data()},
      plain{20, 20, w2.data(), half.data(), m2.data()};
  muon_step(ctx, {}, {.learning_rate = 0.1, .grad_scale = 0.5f}, {&scaled, 1});
  muon_step(ctx, {}, {.learning_rate = 0.1}, {&plain, 1});
  ops::expect_same_values(w2, w1, "weights");
  ops::expect_same_values(m2, m1, "momentum");
}

TEST(Spectrum, SingularValuesOfKnownMatrices) {
  const std::vector<float> diagonal = {0, -3, 0, 0, 0, 2};  // [2, 3]
  const auto values = singular_values(diagonal, 2, 3);
  EXPECT_NEAR(values[0], 3, 1e-13);
  EXPECT_NEAR(values[1], 2, 1e-13);
  // Rank one: |a| |b| and zeros, to rounding.
  std::vector<float> outer;
  for (int i = 1; i <= 5; ++i) {
    for (int j = 1; j <= 3; ++j) outer.push_back(static_cast<float>(i * j));
  }
  const auto one = singular_values(outer, 5, 3);
  EXPECT_NEAR(one[0], std::sqrt(55.0 * 14.0), 1e-12);
  EXPECT_NEAR(one[1], 0, 1e-12);
  EXPECT_NEAR(one[2], 0, 1e-12);
  // Sums of squares are the Frobenius norm; sums of fourth powers that of the Gram matrix.
  const std::vector<float> x = random_values(30 * 50, 90);
  double squares = 0, fourths = 0, frobenius = 0, gram = 0;
  for (double s : singular_values(x, 30, 50)) squares += s * s, fourths += s * s * s * s;
  for (size_t i = 0; i < 30; ++i) {
    for (size_t j = 0; j < 30; ++j) {
      double dot = 0;
      for (size_t k = 0; k < 50; ++k) dot += static_cast<double>(x[i * 50 + k]) * x[j * 50 + k];
      if (i == j) frobenius += dot;
      gram += dot * dot;
    }
  }
  EXPECT_NEAR(squares / frobenius, 1, 1e-12);
  EXPECT_NEAR(fourths / gram, 1, 1e-12);
}

}  // namespace
}  // namespace cachalot::optim
