#include "ops/elementwise/gradient_test.h"
#include "ops/hyper/hyper_connection.h"

namespace cachalot::ops {
namespace {

double sigmoid(double z) { return 1 / (1 + std::exp(-z)); }

struct SplitCase {
  int64_t rows, n, iters;
  HyperKind kind;
};

// reference/forward 2.3 and 2.4 in double: sum of pre d_pre + post d_post + comb d_comb of one row.
double split_product(const SplitCase& c, const double* mixes, double inv_rms, const Doubles& base,
                     const Doubles& scale, const float* d_pre, const float* d_post,
                     const float* d_comb) {
  const int64_t n = c.n;
  const auto logit = [&](int64_t i, int64_t part) {
    return mixes[i] * inv_rms * scale[part] + base[i];
  };
  double result = 0;
  for (int64_t j = 0; j < n; ++j) result += d_pre[j] * (sigmoid(logit(j, 0)) + 1e-6);
  for (int64_t k = 0; k < n; ++k) result += d_post[k] * 2 * sigmoid(logit(n + k, 1));
  Doubles m(n * n);
  for (int64_t i = 0; i < n * n; ++i) m[i] = logit(2 * n + i, 2);
  if (c.kind == HyperKind::mhc) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < n; ++k) sum += m[j * n + k] = std::exp(m[j * n + k]);
      for (int64_t k = 0; k < n; ++k) m[j * n + k] = m[j * n + k] / sum + 1e-6;
    }
    for (int64_t pass = 1; pass < 2 * c.iters; ++pass) {
      for (int64_t a = 0; a < n; ++a) {
        const auto at = [&](int64_t b) -> double& {
          return pass % 2 != 0 ? m[b * n + a] : m[a * n + b];
        };
        double sum = 1e-6;
        for (int64_t b = 0; b < n; ++b) sum += at(b);
        for (int64_t b = 0; b < n; ++b) at(b) /= sum;
      }
    }
  } else {
    for (int64_t j = 0; j < n; ++j) m[j * n + j] += 1;
  }
  for (int64_t i = 0; i < n * n; ++i) result += d_comb[i] * m[i];
  return result;
}

struct SplitInputs {
  std::vector<float> mixes, inv_rms, base, scale, d_pre, d_post, d_comb;
  explicit SplitInputs(const SplitCase& c)
      : mixes(random_values(c.rows * (2 * c.n + c.n * c.n), 61)),
        inv_rms(random_values(c.rows, 62)),
        base(random_values(2 * c.n + c.n * c.n, 63)),
        scale{0.7f, 1.3f, 0.9f},
        d_pre(random_values(c.rows * c.n, 64)),
        d_post(random_values(c.rows * c.n, 65)),
        d_comb(random_values(c.rows * c.n * c.n, 66)) {
    for (float& value : inv_rms) value = std::fabs(value) + 0.1f;
  }
};

struct SplitGradients {
  std::vector<float> mixes, inv_rms, base, scale;
  explicit SplitGradients(const SplitCase& c)
      : mixes(random_values(c.rows * (2 * c.n + c.n * c.n), 67)),
        inv_rms(random_values(c.rows, 68)),
        base(random_values(2 * c.n + c.n * c.n, 69)),
        scale(random_values(3, 70)) {}
};

void run_split_backward(device::ExecContext& ctx, const SplitCase& c, const SplitInputs& in,
                        int64_t first_row, int64_t last_row, SplitGradients& out) {
  const int64_t n = c.n, width = 2 * n + n * n;
  HyperSplitParams p{};
  p.mixes = in.mixes.data() + first_row * width;
  p.inv_rms = in.inv_rms.data() + first_row;
  p.base = in.base.data();
  p.scale = in.scale.data();
  p.rows = last_row - first_row;
  p.n = n;
  p.sinkhorn_iters = c.iters;
  p.hc_eps = 1e-6f;
  p.kind = c.kind;
  hyper_split_backward(ctx, p,
                       {in.d_pre.data() + first_row * n, in.d_post.data() + first_row * n,
                        in.d_comb.data() + first_row * n * n, out.mixes.data() + first_row * width,
                        out.inv_rms.data() + first_row, out.base.data(), out.scale.data()});
}

std::string name_of(const SplitCase& c) {
  return std::to_string(c.rows) + " rows, n " + std::to_string(c.n) + ", " +
         std::to_string(c.iters) + " iterations, kind " + std::to_string(static_cast<int>(c.kind));
}

std::vector<SplitCase> split_cases() {
  std::vector<SplitCase> cases;
  for (int64_t n : {1, 2, 3, 4, 5, 8}) {
    for (int64_t iters : {1, 3, 20})
      cases.push_back({iters == 3 ? 1 : 5, n, iters, HyperKind::mhc});
    cases.push_back({5, n, 20, HyperKind::unconstrained});
  }
  return cases;
}

// Forward and reverse are 2 * iters passes each, of sums of n terms, a quotient and a product: 2 *
// (n + 2) roundings a pass and way, relative to numbers of the size of the upstream gradient times
// n; a pass does not enlarge what came before by more than the divisor of the first column pass
// allows, under 8 here. Logits up to |10| round three times. An element of d_logit reaches an
// output through a product with the factor of that output: at most 4 (inv_rms), 4.5 (mixes).
TEST(HyperSplitBackward, IsTheGradientThroughEveryPassOfSinkhorn) {
  for (const SplitCase& c : split_cases()) {
    const SplitInputs in(c);
    const int64_t n = c.n, width = 2 * n + n * n;
    SplitGradients found(c);
    const SplitGradients before = found;
    TestContext ctx(device::machine_isa(), 2);
    run_split_backward(ctx, c, in, 0, c.rows, found);

    const auto product = [&](int64_t row, const double* mixes, double inv_rms, const Doubles& base,
                             const Doubles& scale) {
      return split_product(c, mixes, inv_rms, base, scale, in.d_pre.data() + row * n,
                           in.d_post.data() + row * n, in.d_comb.data() + row * n * n);
    };
    const Doubles mixes = widened(in.mixes), base = widened(in.base), scale = widened(in.scale);
    Doubles d_mixes, d_inv_rms;
    for (int64_t row = 0; row < c.rows; ++row) {
      const Doubles of_row(mixes.begin() + row * width, mixes.begin() + (row + 1) * width);
      const Doubles d = central_differences(of_row, [&](const Doubles& m) {
        return product(row, m.data(), in.inv_rms[row], base, scale);
      });
      d_mixes.insert(d_mixes.end(), d.begin(), d.end());
      d_inv_rms.push_back(central_differences({in.inv_rms[row]}, [&](const Doubles& r) {
        return product(row, of_row.data(), r[0], base, scale);
      })[0]);
    }
    const auto over_rows = [&](const Doubles& b, const Doubles& s) {
      double sum = 0;
      for (int64_t row = 0; row < c.rows; ++row) {
        sum += product(row, mixes.data() + row * width, in.inv_rms[row], b, s);
      }
      return sum;
    };
    const Doubles d_base =
        central_differences(base, [&](const Doubles& b) { return over_rows(b, scale); });
    const Doubles d_scale =
        central_differences(scale, [&](const Doubles& s) { return over_rows(base, s); });

    const double size = static_cast<double>(n) * largest(in.d_comb) + 2 * largest(in.d_pre);
    const double passes = c.kind == HyperKind::mhc ? 2.0 * static_cast<double>(c.iters) : 0;
    const double tolerance = 0x1p-24 * (3 * 10 + 4 * passes * static_cast<double>(n + 2)) * size;
    expect_added(before.mixes, found.mixes, d_mixes, 4.5 * tolerance, "mixes, " + name_of(c));
    expect_added(before.inv_rms, found.inv_rms, d_inv_rms, 4 * tolerance, "inv_rms, " + name_of(c));
    expect_added(before.base, found.base, d_base, static_cast<double>(c.rows) * tolerance,
                 "base, " + name_of(c));
    expect_added(before.scale, found.scale, d_scale, static_cast<double>(c.rows) * 10 * tolerance,
                 "scale, " + name_of(c));
  }
}

TEST(HyperSplitBackward, BitsDoNotDependOnThreadsInstructionsOrCuts) {
  for (int64_t n : {3, 4, 8}) {
    for (int64_t rows : {0, 1, 3, 4, 16, 37}) {
      const SplitCase c{rows, n, n == 4 ? 20 : 2,
                        rows == 16 ? HyperKind::unconstrained : HyperKind::mhc};
      const SplitInputs in(c);
      TestContext reference(device::Isa::reference);
      SplitGradients expected(c);
      run_split_backward(reference, c, in, 0, rows, expected);
      for_each_context([&](device::ExecContext& ctx, const std::string& name) {
        for (int64_t cut : {rows, int64_t{1}, int64_t{18}}) {
          SplitGradients found(c);
          for (int64_t row = 0; row < rows; row += cut) {
            run_split_backward(ctx, c, in, row, std::min(rows, row + cut), found);
          }
          const std::string where = name + ", " + name_of(c) + ", cut " + std::to_string(cut);
          expect_same_values(expected.mixes, found.mixes, "mixes, " + where);
          expect_same_values(expected.inv_rms, found.inv_rms, "inv_rms, " + where);
          expect_same_values(expected.base, found.base, "base, " + where);
          expect_same_values(expected.scale, found.scale, "scale, " + where);
        }
      });
    }
  }
}

// Logits that saturate everything leave finite gradients.
TEST(HyperSplitBackward, SaturatedLogitsGiveFiniteGradients) {
  const SplitCase c{5, 4, 20, HyperKind::mhc};
  SplitInputs in(c);
  for (float& value : in.mixes) value *= 500.0f;
  SplitGradients found(c);
  TestContext ctx(device::machine_isa());
  run_split_backward(ctx, c, in, 0, c.rows, found);
  for (float value : found.mixes) EXPECT_TRUE(std::isfinite(value));
  for (float value : found.base) EXPECT_TRUE(std::isfinite(value));
}

TEST(HyperHeadSplitBackward, IsTheGradient) {
  for (int64_t n : {1, 3, 4}) {
    const int64_t rows = 5;
    const std::vector<float> mixes = random_values(rows * n, 71), base = random_values(n, 72);
    std::vector<float> inv_rms = random_values(rows, 73);
    for (float& value : inv_rms) value = std::fabs(value) + 0.1f;
    const std::vector<float> scale = {0.8f}, d_pre = random_values(rows * n, 74);
    const auto product = [&](const Doubles& m, const Doubles& r, const Doubles& b,
                             const Doubles& s) {
      double sum = 0;
      for (int64_t i = 0; i < rows * n; ++i) {
        sum += d_pre[i] * (sigmoid(m[i] * r[i / n] * s[0] + b[i % n]) + 1e-6);
      }
      return sum;
    };
    const Doubles m = widened(mixes), r = widened(inv_rms), b = widened(base), s = widened(scale);
    struct {
      std::vector<float> mixes, inv_rms, base, scale;
    } before{random_values(rows * n, 75), random_values(rows, 76), random_values(n, 77), {0.5f}};
    auto whole = before, cut = before;
    TestContext ctx(device::machine_isa());
    hyper_head_split_backward(
        ctx, {mixes.data(), inv_rms.data(), base.data(), scale.data(), rows, n, d_pre.data(),
              whole.mixes.data(), whole.inv_rms.data(), whole.base.data(), whole.scale.data()});
    // Six roundings of numbers up to the largest d_pre times 10 (mixes and inv_rms), summed over
    // rows and streams.
    const double tolerance = 0x1p-24 * 6 * 10 * largest(d_pre) * static_cast<double>(rows * n);
    expect_added(before.mixes, whole.mixes,
                 central_differences(m, [&](const Doubles& x) { return product(x, r, b, s); }),
                 tolerance, "mixes");
    expect_added(before.inv_rms, whole.inv_rms,
                 central_differences(r, [&](const Doubles& x) { return product(m, x, b, s); }),
                 tolerance, "inv_rms");
    expect_added(before.base, whole.base,
                 central_differences(b, [&](const Doubles& x) { return product(m, r, x, s); }),
                 tolerance, "base");
    expect_added(before.scale, whole.scale,
                 central_differences(s, [&](const Doubles& x) { return product(m, r, b, x); }),
                 tolerance, "scale");
    for (int64_t row = 0; row < rows; ++row) {
      hyper_head_split_backward(
          ctx, {mixes.data() + row * n, inv_rms.data() + row, base.data(), scale.data(), 1, n,
                d_pre.data() + row * n, cut.mixes.data() + row * n, cut.inv_rms.data() + row,
                cut.base.data(), cut.scale.data()});
    }
    expect_same_values(whole.base, cut.base, "base, a row a call");
    expect_same_values(whole.scale, cut.scale, "scale, a row a call");
  }
}

// Frozen parameters have no gradient; the rest is as with it.
TEST(HyperSplitBackward, FrozenParametersAreLeftOut) {
  const SplitCase c{5, 4, 20, HyperKind::mhc};
  const SplitInputs in(c);
  SplitGradients expected(c), found(c);
  TestContext ctx(device::machine_isa());
  run_split_backward(ctx, c, in, 0, c.rows, expected);
  HyperSplitParams p{};
  p.mixes = in.mixes.data(), p.inv_rms = in.inv_rms.data();
  p.base = in.base.data(), p.scale = in.scale.data();
  p.rows = c.rows, p.n = c.n, p.sinkhorn_iters = c.iters, p.hc_eps = 1e-6f, p.kind = c.kind;
  hyper_split_backward(ctx, p,
                       {in.d_pre.data(), in.d_post.data(), in.d_comb.data(), found.mixes.data(),
                        found.inv_rms.data(), nullptr, nullptr});
  expect_same_values(expected.mixes, found.mixes, "mixes");
  expect_same_values(expected.inv_rms, found.inv_rms, "inv_rms");
  hyper_head_split_backward(
      ctx, {in.mixes.data(), in.inv_rms.data(), in.base.data(), in.scale.data(), c.rows, c.n,
            in.d_pre.data(), found.mixes.data(), found.inv_rms.data(), nullptr, nullptr});
  EXPECT_NE(expected.mixes, found.mixes);
}

// A whole residual sublayer, x -> (u, post, C) -> x' with the sublayer y = sin(u) in between: every
// path from the streams to the merged streams at once. The products with fn are plain loops, here
// and in double.
struct Sublayer {
  static constexpr int64_t kRows = 3, n = 4, d = 9, kWidth = 2 * n + n * n;
  std::vector<float> fn = random_values(kWidth * n * d, 111), base = random_values(kWidth, 112);
  std::vector<float> scale = {0.4f, 0.7f, 0.6f}, d_out = random_values(kRows * n * d, 113);

  double product(const Doubles& x, const Doubles& f) const {
    double sum = 0;
    for (int64_t row = 0; row < kRows; ++row) {
      const double* v = x.data() + row * n * d;
      double squares = 0;
      for (int64_t i = 0; i < n * d; ++i) squares += v[i] * v[i];
      const double inv_rms = 1 / std::sqrt(squares / (n * d) + 1e-6);
      Doubles mixes(kWidth, 0.0), y(d, 0.0);
      for (int64_t m = 0; m < kWidth; ++m) {
        for (int64_t i = 0; i < n * d; ++i) mixes[m] += f[m * n * d + i] * v[i];
      }
      const auto logit = [&](int64_t m, int64_t part) {
        return mixes[m] * inv_rms * scale[part] + base[m];
      };
      for (int64_t i = 0; i < d; ++i) {
        for (int64_t j = 0; j < n; ++j) y[i] += (sigmoid(logit(j, 0)) + 1e-6) * v[j * d + i];
        y[i] = std::sin(y[i]);
      }
      // d_post and d_comb of the last step are what the coefficients are multiplied with.
      std::vector<float> none(n, 0.0f);
      Doubles d_post(n, 0.0), d_comb(n * n, 0.0);
      for (int64_t k = 0; k < n; ++k) {
        for (int64_t i = 0; i < d; ++i) {
          const double gradient = d_out[(row * n + k) * d + i];
          d_post[k] += gradient * y[i];
          for (int64_t j = 0; j < n; ++j) d_comb[j * n + k] += gradient * v[j * d + i];
        }
      }
      const SplitCase c{1, n, 20, HyperKind::mhc};
      sum += coefficients(c, mixes, inv_rms, d_post, d_comb);
    }
    return sum;
  }

  // sum of post d_post + comb d_comb, one coefficient at a time through split_product.
  double coefficients(const SplitCase& c, const Doubles& mixes, double inv_rms,
                      const Doubles& d_post, const Doubles& d_comb) const {
    const Doubles b = widened(base), s = widened(scale);
    double sum = 0;
    for (int64_t i = 0; i < n + n * n; ++i) {
      std::vector<float> pick(2 * n + n * n, 0.0f);
      pick[n + i] = 1;
      sum += (i < n ? d_post[i] : d_comb[i - n]) * split_product(c, mixes.data(), inv_rms, b, s,
                                                                 pick.data(), pick.data() + n,
                                                                 pick.data() + 2 * n);
    }
    return sum;
  }
};

TEST(HyperConnectionBackward, WholeSublayerAgainstCentralDifferences) {
  const Sublayer s;
  constexpr int64_t kRows = Sublayer::kRows, n = Sublayer::n, d = Sublayer::d,
                    kWidth = Sublayer::kWidth;
  const std::vector<float> x = random_values(kRows * n * d, 114);
  TestContext ctx(device::machine_isa(), 2);

  std::vector<float> mixes(kRows * kWidth, 0.0f), inv_rms(kRows), pre(kRows * n), post(kRows * n),
      comb(kRows * n * n), u(kRows * d), y(kRows * d), out(kRows * n * d);
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t m = 0; m < kWidth; ++m) {
      for (int64_t i = 0; i < n * d; ++i) {
        mixes[row * kWidth + m] += s.fn[m * n * d + i] * x[row * n * d + i];
      }
    }
  }
  hyper_inv_rms(ctx, x.data(), kRows, n * d, 1e-6f, inv_rms.data());
  const HyperSplitParams split{
      mixes.data(), inv_rms.data(), s.base.data(),  s.scale.data(), kRows,       n,
      20,           1e-6f,          HyperKind::mhc, pre.data(),     post.data(), comb.data()};
  hyper_split(ctx, split);
  hyper_pre(ctx, x.data(), pre.data(), kRows, n, d, false, u.data());
  for (size_t i = 0; i < u.size(); ++i) y[i] = std::sin(u[i]);
  const std::vector<float> old = x;
  hyper_post(ctx, x.data(), y.data(), post.data(), comb.data(), kRows, n, d, false, out.data());
  EXPECT_EQ(old, x);

  std::vector<float> d_x(x.size(), 0.0f), d_y(y.size(), 0.0f), d_u(u.size()),
      d_pre(pre.size(), 0.0f), d_post(post.size(), 0.0f), d_comb(comb.size(), 0.0f),
      d_mixes(mixes.size(), 0.0f), d_inv_rms(kRows, 0.0f), d_base(kWidth, 0.0f), d_scale(3, 0.0f),
      d_fn(s.fn.size(), 0.0f);
  hyper_post_backward(ctx, {x.data(), y.data(), post.data(), comb.data(), s.d_out.data(), kRows, n,
                            d, d_x.data(), d_y.data(), d_post.data(), d_comb.data()});
  for (size_t i = 0; i < u.size(); ++i) d_u[i] = d_y[i] * std::cos(u[i]);
  hyper_pre_backward(ctx,
                     {x.data(), pre.data(), d_u.data(), kRows, n, d, d_x.data(), d_pre.data()});
  hyper_split_backward(ctx, split,
                       {d_pre.data(), d_post.data(), d_comb.data(), d_mixes.data(),
                        d_inv_rms.data(), d_base.data(), d_scale.data()});
  hyper_inv_rms_backward(ctx, x.data(), inv_rms.data(), d_inv_rms.data(), kRows, n * d, d_x.data());
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t m = 0; m < kWidth; ++m) {
      for (int64_t i = 0; i < n * d; ++i) {
        d_x[row * n * d + i] += d_mixes[row * kWidth + m] * s.fn[m * n * d + i];
        d_fn[m * n * d + i] += d_mixes[row * kWidth + m] * x[row * n * d + i];
      }
    }
  }

  // Upstream gradients of the coefficients are sums over d of products of numbers up to 4; they go
  // through Sinkhorn with the relative error of HyperSplitBackward and reach x and fn through
  // products with fn or x, up to 4, over 24 mixes.
  const double upstream = static_cast<double>(d) * largest(s.d_out) * std::max(largest(x), 1.0);
  const double relative = 0x1p-24 * (3 * 10 + 4 * 40 * (n + 2.0));
  const double tolerance = relative * upstream * std::max(largest(s.fn), largest(x));
  const Doubles fn = widened(s.fn);
  const std::vector<float> no_x(x.size(), 0.0f), no_fn(fn.size(), 0.0f);
  expect_added(no_x, d_x,
               central_differences(widened(x), [&](const Doubles& v) { return s.product(v, fn); }),
               tolerance, "streams");
  const Doubles wide_x = widened(x);
  expect_added(no_fn, d_fn,
               central_differences(fn, [&](const Doubles& v) { return s.product(wide_x, v); }),
               tolerance, "fn");
}

}  // namespace
}  // namespace cachalot::ops
