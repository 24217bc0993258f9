#include "ops/hyper/hyper_connection.h"

#include "ops/elementwise/kernel_test.h"

namespace cachalot::ops {
namespace {

struct Split {
  std::vector<float> pre, post, comb;
};

Split split(device::ExecContext& ctx, const std::vector<float>& mixes,
            const std::vector<float>& inv_rms, const std::vector<float>& base,
            const std::vector<float>& scale, int64_t n, int64_t iters = 20,
            HyperKind kind = HyperKind::mhc) {
  const auto rows = static_cast<int64_t>(inv_rms.size());
  Split s{std::vector<float>(rows * n), std::vector<float>(rows * n),
          std::vector<float>(rows * n * n)};
  hyper_split(ctx, {mixes.data(), inv_rms.data(), base.data(), scale.data(), rows, n, iters, 1e-6f,
                    kind, s.pre.data(), s.post.data(), s.comb.data()});
  return s;
}

const std::vector<float> kMixes = {0.3f, -1.2f, 0, 2,     -0.5f, 0.25f, 1,    -2,   1, 0, -1, 0.5f,
                                   0.2f, 1.5f,  0, -0.3f, -0.7f, 0.4f,  2.2f, 0.1f, 0, 0, 0,  3};

TEST(HyperSplit, WorkedExample) {
  TestContext ctx(device::Isa::reference);
  const Split s = split(ctx, kMixes, {1}, std::vector<float>(24, 0.0f), {1, 1, 1}, 4);
  const float pre[] = {0.5744435f, 0.2314762f, 0.500001f, 0.880798f};
  const float post[] = {0.7550814f, 1.124353f, 1.4621172f, 0.2384059f};
  const float comb[] = {0.6232458f, 0.1754936f, 0.0580386f, 0.1432210f, 0.2173126f, 0.6103241f,
                        0.1224241f, 0.0499383f, 0.0600687f, 0.1381210f, 0.7511603f, 0.0506491f,
                        0.0993719f, 0.0760603f, 0.0683760f, 0.7561906f};
  // The golden numbers have seven digits.
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(s.pre[i], pre[i], 6e-7f) << i;
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(s.post[i], post[i], 6e-7f) << i;
  for (size_t i = 0; i < 16; ++i) EXPECT_NEAR(s.comb[i], comb[i], 3e-7f) << i;
  for (size_t k = 0; k < 4; ++k) {
    EXPECT_NEAR(s.comb[k] + s.comb[4 + k] + s.comb[8 + k] + s.comb[12 + k], 0.999999f, 3e-7f);
  }
}

// reference/forward 2.3 and 2.4 in double.
Split split_in_double(const std::vector<float>& mixes, float inv_rms,
                      const std::vector<float>& base, const std::vector<float>& scale, size_t n,
                      int iters) {
  const auto logit = [&](size_t i, size_t part) {
    return static_cast<double>(mixes[i]) * inv_rms * scale[part] + base[i];
  };
  const auto sigmoid = [](double z) { return 1 / (1 + std::exp(-z)); };
  std::vector<double> c(n * n);
  Split s;
  for (size_t j = 0; j < n; ++j) s.pre.push_back(static_cast<float>(sigmoid(logit(j, 0)) + 1e-6));
  for (size_t k = 0; k < n; ++k) s.post.push_back(static_cast<float>(2 * sigmoid(logit(n + k, 1))));
  for (size_t j = 0; j < n; ++j) {
    double sum = 0, max = -1e300;
    for (size_t k = 0; k < n; ++k) max = std::max(max, logit(2 * n + j * n + k, 2));
    for (size_t k = 0; k < n; ++k)
      sum += c[j * n + k] = std::exp(logit(2 * n + j * n + k, 2) - max);
    for (size_t k = 0; k < n; ++k) c[j * n + k] = c[j * n + k] / sum + 1e-6;
  }
  for (int pass = 0; pass < 2 * iters - 1; ++pass) {
    const bool columns = pass % 2 == 0;
    for (size_t a = 0; a < n; ++a) {
      double sum = 1e-6;
      for (size_t b = 0; b < n; ++b) sum += columns ? c[b * n + a] : c[a * n + b];
      for (size_t b = 0; b < n; ++b) (columns ? c[b * n + a] : c[a * n + b]) /= sum;
    }
  }
  for (double value : c) s.comb.push_back(static_cast<float>(value));
  return s;
}

// Each of the 2 * iters passes rounds a sum of n terms and a quotient; errors of rows and columns
// do not grow from pass to pass by more than they add: (n + 2) ulp a pass bounds them. Logits round
// three times, at most 4 ulp of |logit| <= 8.
TEST(HyperSplit, EqualsTheFormulaInDouble) {
  for (int64_t n : {1, 2, 3, 4, 5, 8}) {
    for (int64_t iters : {1, 3, 20}) {
      const int64_t rows = 9;
      const int64_t width = 2 * n + n * n;
      const std::vector<float> mixes = random_values(rows * width, 21);
      const std::vector<float> base = random_values(width, 22);
      const std::vector<float> scale = {0.7f, 1.3f, 0.9f};
      std::vector<float> inv_rms = random_values(rows, 23);
      for (float& value : inv_rms) value = std::fabs(value) + 0.1f;
      TestContext ctx(device::machine_isa(), 2);
      const Split found = split(ctx, mixes, inv_rms, base, scale, n, iters);
      for (int64_t row = 0; row < rows; ++row) {
        const std::vector<float> m(mixes.begin() + row * width, mixes.begin() + (row + 1) * width);
        const Split expected = split_in_double(m, inv_rms[static_cast<size_t>(row)], base, scale,
                                               static_cast<size_t>(n), static_cast<int>(iters));
        const double logit_error = 4 * 0x1p-24 * 8;
        const double comb_error = logit_error + 2.0 * iters * (n + 2) * 0x1p-24;
        for (size_t j = 0; j < static_cast<size_t>(n); ++j) {
          EXPECT_NEAR(found.pre[row * n + j], expected.pre[j], logit_error);
          EXPECT_NEAR(found.post[row * n + j], expected.post[j], 2 * logit_error);
        }
        for (size_t i = 0; i < static_cast<size_t>(n * n); ++i) {
          EXPECT_NEAR(found.comb[row * n * n + i], expected.comb[i], comb_error)
              << n << " " << iters;
        }
      }
    }
  }
}

TEST(HyperSplit, EveryVersionHasTheReferenceBits) {
  for (int64_t n : {1, 3, 4, 8}) {
    for (int64_t rows : {1, 3, 4, 15, 16, 17, 37}) {
      const int64_t width = 2 * n + n * n;
      std::vector<float> mixes = random_values(rows * width, 25, 3.0);
      if (rows > 15) mixes[2 * width] = kNan, mixes[5 * width - 1] = kInf, mixes[7 * width] = -kInf;
      const std::vector<float> inv_rms = random_values(rows, 26), base = random_values(width, 27);
      const HyperKind kind = rows == 15 ? HyperKind::unconstrained : HyperKind::mhc;
      const auto run = [&](device::ExecContext& ctx) {
        return split(ctx, mixes, inv_rms, base, {0.7f, 1.3f, 0.9f}, n, 5, kind);
      };
      TestContext reference(device::Isa::reference);
      const Split expected = run(reference);
      for_each_context([&](device::ExecContext& ctx, const std::string& name) {
        const Split found = run(ctx);
        expect_same_values(expected.pre, found.pre, "pre, " + name);
        expect_same_values(expected.post, found.post, "post, " + name);
        expect_same_values(expected.comb, found.comb, "comb, " + name);
      });
    }
  }
}

TEST(HyperSplit, SaturatedLogitsStayFinite) {
  for (float size : {80.0f, 1000.0f}) {
    std::vector<float> mixes(24);
    for (size_t i = 0; i < 24; ++i) mixes[i] = (i / 4 + i) % 2 == 0 ? size : -size;
    TestContext ctx(device::Isa::reference);
    const Split s = split(ctx, mixes, {1}, std::vector<float>(24, 0.0f), {1, 1, 1}, 4);
    for (size_t j = 0; j < 4; ++j) {
      EXPECT_EQ(s.pre[j], mixes[j] > 0 ? 1.0f + 1e-6f : 1e-6f);  // sigmoid underflows to nothing
      EXPECT_NEAR(s.post[j], mixes[4 + j] > 0 ? 2.0f : 0.0f, 1e-30f);
    }
    for (size_t k = 0; k < 4; ++k) {
      float sum = 0;
      for (size_t j = 0; j < 4; ++j) {
        EXPECT_TRUE(s.comb[4 * j + k] > 0 && s.comb[4 * j + k] < 1.0f);
        sum += s.comb[4 * j + k];
      }
      EXPECT_NEAR(sum, 1.0f, 2e-6f);
    }
  }
}

TEST(HyperSplit, UnconstrainedAddsTheIdentityAndSkipsSinkhorn) {
  TestContext ctx(device::Isa::reference);
  const std::vector<float> base(24, 0.25f);
  const Split s = split(ctx, kMixes, {2}, base, {1, 1, 0.5f}, 4, 20, HyperKind::unconstrained);
  for (size_t j = 0; j < 4; ++j) {
    for (size_t k = 0; k < 4; ++k) {
      EXPECT_EQ(s.comb[4 * j + k],
                kMixes[8 + 4 * j + k] * 2 * 0.5f + 0.25f + (j == k ? 1.0f : 0.0f));
    }
  }
}

TEST(HyperHeadSplit, IsThePrePartAlone) {
  const std::vector<float> base = {0.1f, -0.2f, 0.3f, -40.0f};
  const std::vector<float> all_base = {0.1f, -0.2f, 0.3f, -40.0f, 0, 0, 0, 0, 0, 0, 0, 0,
                                       0,    0,     0,    0,      0, 0, 0, 0, 0, 0, 0, 0};
  TestContext ctx(device::Isa::reference);
  const Split s = split(ctx, kMixes, {0.75f}, all_base, {1.5f, 1, 1}, 4);
  std::vector<float> pre(4);
  const float inv_rms = 0.75f, scale = 1.5f;
  hyper_head_split(ctx, kMixes.data(), &inv_rms, base.data(), &scale, 1, 4, 1e-6f, pre.data());
  expect_same_values(s.pre, pre, "pre");
}

TEST(HyperInvRms, IsTheUnweightedFactorOverAllStreams) {
  const int64_t columns = 4 * 100;
  const std::vector<float> x = random_values(3 * columns, 24);
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    std::vector<float> inv_rms(3);
    hyper_inv_rms(ctx, x.data(), 3, columns, 1e-6f, inv_rms.data());
    for (int64_t row = 0; row < 3; ++row) {
      double sum = 0;
      for (int64_t i = 0; i < columns; ++i) {
        sum += static_cast<double>(x[row * columns + i]) * x[row * columns + i];
      }
      const double expected = 1 / std::sqrt(sum / columns + 1e-6);
      EXPECT_NEAR(inv_rms[row], expected, (25 / 2 + 5) * 0x1p-24 * expected) << name;
    }
    const std::vector<float> zeros(columns, 0.0f);
    hyper_inv_rms(ctx, zeros.data(), 1, columns, 1e-6f, inv_rms.data());
    EXPECT_EQ(inv_rms[0], 1.0f / std::sqrt(1e-6f)) << name;
  });
}

struct Case {
  int64_t rows, n, d;
  bool round;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (int64_t d = 1; d <= 33; ++d) all.push_back({3, d % 2 == 0 ? 4 : 1 + d % 8, d, d % 3 == 0});
  all.push_back({1, 4, 4096, true});
  all.push_back({5, 4, 7168, false});
  all.push_back({19, 4, 260, true});
  all.push_back({2, 8, 5000, false});
  return all;
}

struct Layer {
  std::vector<float> streams, y, pre, comb;
};
Layer make_layer(const Case& c) {
  Layer layer{random_values(c.rows * c.n * c.d, 31), random_values(c.rows * c.d, 32),
              random_values(c.rows * c.n, 33), random_values(c.rows * c.n * c.n, 34)};
  layer.streams[layer.streams.size() / 2] = kNan;
  layer.y[0] = kInf;
  return layer;
}

TEST(HyperConnection, EveryVersionHasTheReferenceBits) {
  for (const Case& c : cases()) {
    const Layer layer = make_layer(c);
    std::vector<float> expected_u, expected_x, expected_rms;
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      std::vector<float> u(layer.y.size());
      hyper_pre(ctx, layer.streams.data(), layer.pre.data(), c.rows, c.n, c.d, c.round, u.data());
      std::vector<float> x = layer.streams;
      hyper_post(ctx, x.data(), layer.y.data(), layer.pre.data(), layer.comb.data(), c.rows, c.n,
                 c.d, c.round, x.data());
      std::vector<float> beside(x.size());
      hyper_post(ctx, layer.streams.data(), layer.y.data(), layer.pre.data(), layer.comb.data(),
                 c.rows, c.n, c.d, c.round, beside.data());
      std::vector<float> rms(static_cast<size_t>(c.rows));
      hyper_inv_rms(ctx, layer.streams.data(), c.rows, c.n * c.d, 1e-6f, rms.data());
      if (expected_u.empty()) expected_u = u, expected_x = x, expected_rms = rms;
      const std::string where = name + ", n " + std::to_string(c.n) + ", d " + std::to_string(c.d);
      expect_same_values(expected_u, u, "u, " + where);
      expect_same_values(expected_x, x, "streams, " + where);
      expect_same_values(expected_x, beside, "streams beside the old ones, " + where);
      expect_same_values(expected_rms, rms, "inv_rms, " + where);
    });
  }
}

// comb's first index is the source stream: the sum runs over it. n + 1 roundings on terms of the
// given sizes.
TEST(HyperPost, MixesSourcesIntoDestinations) {
  const int64_t n = 4, d = 40, rows = 2;
  const std::vector<float> x = random_values(rows * n * d, 35);
  const std::vector<float> y = random_values(rows * d, 36);
  const std::vector<float> post = random_values(rows * n, 37);
  const std::vector<float> comb = random_values(rows * n * n, 38);
  std::vector<float> found = x;
  TestContext ctx(device::machine_isa());
  hyper_post(ctx, found.data(), y.data(), post.data(), comb.data(), rows, n, d, false,
             found.data());
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < n; ++k) {
      for (int64_t i = 0; i < d; ++i) {
        double expected = static_cast<double>(post[row * n + k]) * y[row * d + i];
        double size = std::fabs(expected);
        for (int64_t j = 0; j < n; ++j) {
          const double term =
              static_cast<double>(comb[(row * n + j) * n + k]) * x[(row * n + j) * d + i];
          expected += term;
          size += std::fabs(term);
        }
        EXPECT_NEAR(found[(row * n + k) * d + i], expected, (n + 1) * 0x1p-24 * size);
      }
    }
  }
}

TEST(HyperPre, WeighsTheStreams) {
  const int64_t n = 3, d = 20;
  const std::vector<float> x = random_values(n * d, 39);
  const std::vector<float> pre = {0.5f, -2.0f, 0.25f};
  std::vector<float> u(d);
  TestContext ctx(device::machine_isa());
  hyper_pre(ctx, x.data(), pre.data(), 1, n, d, true, u.data());
  for (int64_t i = 0; i < d; ++i) {
    const float exact_terms = std::fma(0.25f, x[2 * d + i], 0.5f * x[i] - 2.0f * x[d + i]);
    EXPECT_EQ(u[i], numeric::round_to_bf16(exact_terms));
  }
}

}  // namespace
}  // namespace cachalot::ops
