// adamw.h, muon_update.h and grad_norm.h.
#include <span>

#include "ops/elementwise/kernel_test.h"
#include "ops/optim/adamw.h"
#include "ops/optim/grad_norm.h"
#include "ops/optim/muon_update.h"
#include "ops/optim/newton_schulz.h"

namespace cachalot::ops {
namespace {

struct AdamwState {
  std::vector<float> w, m, v;
};

AdamwState random_state(int64_t n) {
  AdamwState s{random_values(n, 1), random_values(n, 2, 4.0), random_values(n, 3, 4.0)};
  for (float& v : s.v) v *= v;
  return s;
}

AdamwParams params(AdamwState& s, const std::vector<float>& g, int64_t step) {
  return {.n = static_cast<int64_t>(g.size()),
          .g = g.data(),
          .w = s.w.data(),
          .m = s.m.data(),
          .v = s.v.data(),
          .step = step,
          .learning_rate = 1e-3};
}

// torch.optim.AdamW's documented step in double.
void adamw_double(const AdamwParams& p, double g, double& w, double& m, double& v) {
  w *= 1 - p.learning_rate * p.weight_decay;
  m = p.beta1 * m + (1 - p.beta1) * g;
  v = p.beta2 * v + (1 - p.beta2) * g * g;
  const double m_hat = m / (1 - std::pow(p.beta1, p.step));
  const double v_hat = v / (1 - std::pow(p.beta2, p.step));
  w -= p.learning_rate * m_hat / (std::sqrt(v_hat) + p.eps);
}

TEST(Adamw, OneStepIsTheFormula) {
  for (int64_t n : {1, 15, 16, 17, 100}) {
    for (int64_t step : {1, 2, 100, 100000}) {
      const std::vector<float> g = random_values(n, 4, 4.0);
      for_each_context([&](device::ExecContext& ctx, const std::string& name) {
        AdamwState s = random_state(n);
        const AdamwState before = s;
        AdamwParams p = params(s, g, step);
        p.grad_scale = 0.25f;  // exact
        adamw(ctx, p);
        for (size_t i = 0; i < g.size(); ++i) {
          double w = before.w[i], m = before.m[i], v = before.v[i];
          adamw_double(p, 0.25 * g[i], w, m, v);
          const double m_terms = std::fabs(before.m[i]) + 0.25 * std::fabs(g[i]);
          const double update = p.learning_rate * m_terms / (1 - std::pow(p.beta1, step)) /
                                (std::sqrt(v / (1 - std::pow(p.beta2, step))) + p.eps);
          // Half an ulp (2^-24) per operation on the terms as they stand: m three roundings (its
          // factor, the difference, the sum) and v four; w the factor, product and difference; the
          // update those of m, half those of v, and its own five.
          EXPECT_NEAR(s.m[i], m, 3 * 0x1p-24 * 2 * m_terms) << name;
          EXPECT_NEAR(s.v[i], v, 4 * 0x1p-24 * v + 0x1p-149) << name;
          EXPECT_NEAR(s.w[i], w,
                      3 * 0x1p-24 * (std::fabs(before.w[i]) + update) + 14 * 0x1p-24 * update)
              << name << " " << i;
        }
      });
    }
  }
}

TEST(Adamw, TheFirstStepMovesByTheLearningRateWhateverTheGradientsSize) {
  TestContext ctx(device::machine_isa());
  const std::vector<float> g = {1.0f, -1e-3f, 1e-15f, -1e-20f, 3e8f, 0.0f};
  AdamwState s{std::vector<float>(6, 0.0f), std::vector<float>(6, 0.0f),
               std::vector<float>(6, 0.0f)};
  adamw(ctx, params(s, g, 1));
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(s.w[i], g[i] > 0 ? -1e-3 : 1e-3, 1e-8);
  // eps = 1e-20 is as large as this gradient: m / (sqrt(v) + eps) = 1/2, with a v of 7 significant
  // bits.
  EXPECT_NEAR(s.w[3], 0.5e-3, 1e-5);
  EXPECT_NEAR(s.w[4], -1e-3, 1e-8);
  EXPECT_EQ(s.w[5], 0.0f);
}

TEST(Adamw, EveryVersionHasTheReferenceBits) {
  for (int64_t n : {0, 1, 7, 16, 33, 40000}) {
    std::vector<float> g = random_values(n, 5, 10.0);
    if (n > 20) g[3] = kNan, g[5] = kInf, g[6] = 1e-30f;
    TestContext reference(device::Isa::reference);
    AdamwState expected = random_state(n);
    adamw(reference, params(expected, g, 7));
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      AdamwState s = random_state(n);
      adamw(ctx, params(s, g, 7));
      expect_same_values(expected.w, s.w, name);
      expect_same_values(expected.m, s.m, name);
      expect_same_values(expected.v, s.v, name);
    });
  }
}

TEST(Adamw, AListIsItsParameters) {
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    std::vector<std::vector<float>> grads;
    std::vector<AdamwState> together, alone;
    for (int64_t n : {5, 0, 40000, 16, 1}) {
      grads.push_back(random_values(n, 6));
      together.push_back(random_state(n));
    }
    alone = together;
    std::vector<AdamwParams> list;
    for (size_t i = 0; i < grads.size(); ++i) {
      list.push_back(params(together[i], grads[i], static_cast<int64_t>(i) + 1));
      adamw(ctx, params(alone[i], grads[i], static_cast<int64_t>(i) + 1));
    }
    adamw(ctx, list);
    for (size_t i = 0; i < grads.size(); ++i)
      expect_same_values(alone[i].w, together[i].w, name + " " + std::to_string(i));
  });
}

// Small matrices that share a run, beside one that is cut into tiles.
TEST(MuonUpdate, IsTheFormulaOnEveryVersion) {
  const int64_t shapes[][2] = {{1, 1}, {7, 5}, {5, 40}, {33, 16}, {150, 130}, {0, 3}, {16, 33}};
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    std::vector<std::vector<float>> g, m, w, m0, w0;
    for (const auto& [rows, columns] : shapes) {
      const auto seed = static_cast<uint64_t>(g.size());
      g.push_back(random_values(rows * columns, 10 + seed));
      m.push_back(random_values(rows * columns, 20 + seed));
      w.push_back(random_values(rows * columns, 30 + seed));
    }
    m0 = m, w0 = w;
    std::vector<MuonUpdateParams> matrices;
    for (size_t i = 0; i < g.size(); ++i) {
      const auto& [rows, columns] = shapes[i];
      if (ctx.isa == device::Isa::reference && rows == 150) continue;  // takes its time
      matrices.push_back(
          {rows, columns, g[i].data(), m[i].data(), w[i].data(), 0.95f, 0.75f, 0.3f, 0.5f});
    }
    muon_update(ctx, matrices);
    for (size_t i = 0; i < g.size(); ++i) {
      const auto& [rows, columns] = shapes[i];
      if (ctx.isa == device::Isa::reference && rows == 150) continue;
      std::vector<float> u(g[i].size());
      for (size_t j = 0; j < u.size(); ++j) {
        ASSERT_EQ(m[i][j], std::fma(0.95f, m0[i][j], 0.5f * g[i][j])) << name;
        u[j] = std::fma(0.95f, m[i][j], 0.5f * g[i][j]);
      }
      const float* from[] = {u.data()};
      float* to[] = {u.data()};
      newton_schulz(ctx, {rows, columns, from, to});
      for (size_t j = 0; j < u.size(); ++j)
        ASSERT_EQ(w[i][j], std::fma(-0.3f, u[j], 0.75f * w0[i][j])) << name << " " << i;
    }
  });
}

TEST(GradNorm, IsTheNormInTheSameBitsForAnyThreads) {
  const std::vector<float> a = random_values(10001, 9, 100.0), b = random_values(5, 10);
  const std::vector<std::span<const float>> both = {a, b, {}};
  double expected = 0;
  for (float x : a) expected += static_cast<double>(x) * x;
  for (float x : b) expected += static_cast<double>(x) * x;
  expected = std::sqrt(expected);
  TestContext one(device::machine_isa());
  const double norm = global_norm(one, both);
  EXPECT_NEAR(norm, expected, 1e-12 * expected);  // 10,006 additions of positive terms, 2^-53 each
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    EXPECT_EQ(global_norm(ctx, both), norm) << name;
  });
  // Squares that a float cannot hold.
  const std::vector<float> large = {3e30f, 4e30f};
  EXPECT_NEAR(global_norm(one, std::vector<std::span<const float>>{large}), 5e30, 1e24);
}

TEST(GradNorm, ClipsAboveTheLimitOnly) {
  EXPECT_EQ(clip_factor(0.5, 1), 1.0f);
  EXPECT_EQ(clip_factor(1, 1), 1.0f);
  EXPECT_EQ(clip_factor(4, 1), 0.25f);
  EXPECT_EQ(clip_factor(4, 0), 1.0f);
  EXPECT_EQ(clip_factor(0, 1), 1.0f);
  EXPECT_EQ(clip_factor(kInf, 1), 1.0f);
  EXPECT_EQ(clip_factor(kNan, 1), 1.0f);
}

}  // namespace
}  // namespace cachalot::ops
