// adamw.h, muon_update.h and grad_norm.h.
#include <span>

#include "ops/elementwise/kernel_test.h"
#include "ops/optim/adamw.h"
#include "ops/optim/grad_norm.h"
#include "ops/optim/muon_update.h"

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
          // Half an ulp (2^-24) per operation on the terms as they stand: m three roundings (its factor, the difference, the
          // sum) and v four; w the factor, product and difference; the update those of m, half those of v, and its own five.
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
  // eps = 1e-20 is as large as this gradient: m / (sqrt(v) + eps) = 1/2, with a v of 7 significant bits.
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

TEST(MuonUpdate, EveryVersionIsTheFormula) {
  for (int64_t n : {0, 1, 7, 16, 33, 40000}) {
    const std::vector<float> g = random_values(n, 6), m0 = random_values(n, 7);
    const std::vector<float> w0 = random_values(n, 8);
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      std::vector<float> m = m0, u = g, w = w0;
      muon_momentum(ctx, {n, g.data(), m.data(), u.data(), 0.95f, 0.5f});
      muon_apply(ctx, {n, u.data(), w.data(), 0.75f, 0.3f});
      for (size_t i = 0; i < g.size(); ++i) {
        ASSERT_EQ(m[i], std::fma(0.95f, m0[i], 0.5f * g[i])) << name;
        ASSERT_EQ(u[i], std::fma(0.95f, m[i], 0.5f * g[i])) << name;
        ASSERT_EQ(w[i], std::fma(-0.3f, u[i], 0.75f * w0[i])) << name;
      }
    });
  }
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
