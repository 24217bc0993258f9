#include "ops/elementwise/kernel_test.h"
#include "ops/norm/rms_norm.h"

namespace cachalot::ops {
namespace {

struct Case {
  int64_t rows, columns, stride;
  bool weighted;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (int64_t columns = 1; columns <= 33; ++columns)
    all.push_back({3, columns, columns + columns % 5, columns % 2 == 0});
  for (int64_t columns : {63, 64, 65, 80, 127, 144}) all.push_back({5, columns, columns, true});
  all.push_back({1, 4096, 4096, true});
  all.push_back({70, 511, 520, true});
  all.push_back({0, 16, 16, true});
  return all;
}

struct Gradients {
  std::vector<float> dx, dg;
};

// Of rows [begin, end), added into `into`.
void add_gradients(device::ExecContext& ctx, const Case& c, const std::vector<float>& x,
                   const std::vector<float>& g, const std::vector<float>& dy, int64_t begin,
                   int64_t end, Gradients& into) {
  const int64_t at = begin * c.stride;
  rms_norm_backward(ctx, {x.data() + at, c.stride, c.weighted ? g.data() : nullptr, dy.data() + at,
                          c.stride, into.dx.data() + at, c.stride,
                          c.weighted ? into.dg.data() : nullptr, end - begin, c.columns, 1e-3f});
}

struct Operands {
  Case c;
  std::vector<float> x, g, dy;
  Gradients start;  // what the buffers hold before

  explicit Operands(const Case& shape)
      : c(shape),
        x(random_values(c.rows * c.stride, 1, 2.0)),
        g(random_values(c.columns, 2)),
        dy(random_values(c.rows * c.stride, 3, 2.0)),
        start{random_values(c.rows * c.stride, 4), random_values(c.columns, 5)} {}
  Gradients run(device::ExecContext& ctx) const {
    Gradients result = start;
    add_gradients(ctx, c, x, g, dy, 0, c.rows, result);
    return result;
  }
};

TEST(RmsNormBackward, EveryVersionHasTheReferenceBits) {
  for (const Case& c : cases()) {
    const Operands operands(c);
    TestContext reference(device::Isa::reference);
    const Gradients expected = operands.run(reference);
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      const Gradients found = operands.run(ctx);
      expect_same_values(expected.dx, found.dx,
                         name + ", dx, columns " + std::to_string(c.columns));
      expect_same_values(expected.dg, found.dg,
                         name + ", dg, columns " + std::to_string(c.columns));
    });
  }
}

TEST(RmsNormBackward, RowsInSeveralCallsGiveTheSameBits) {
  const Operands operands({23, 83, 90, true});
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    const Gradients whole = operands.run(ctx);
    Gradients cut = operands.start;
    int64_t begin = 0;
    for (int64_t end : {1, 1, 8, 23}) {
      add_gradients(ctx, operands.c, operands.x, operands.g, operands.dy, begin, end, cut);
      begin = end;
    }
    expect_same_values(whole.dx, cut.dx, name + ", dx");
    expect_same_values(whole.dg, cut.dg, name + ", dg");
  });
}

struct Sizes {
  double r = 0, h = 0, dy_x = 0, terms = 0;  // largest r, |g dy|, |dy x|; sum of |dy y|
};

// L = sum dy y in double.
double loss(const Operands& o, const std::vector<double>& x, const std::vector<double>& g,
            Sizes* sizes = nullptr) {
  const Case& c = o.c;
  double sum = 0;
  for (int64_t row = 0; row < c.rows; ++row) {
    double squares = 0;
    for (int64_t i = 0; i < c.columns; ++i)
      squares += x[row * c.stride + i] * x[row * c.stride + i];
    const double r = 1 / std::sqrt(squares / static_cast<double>(c.columns) + double{1e-3f});
    for (int64_t i = 0; i < c.columns; ++i) {
      const auto at = static_cast<size_t>(row * c.stride + i);
      const double h = o.dy[at] * (c.weighted ? g[i] : 1.0);
      sum += h * x[at] * r;
      if (sizes == nullptr) continue;
      sizes->r = std::max(sizes->r, r);
      sizes->h = std::max(sizes->h, std::fabs(h));
      sizes->dy_x = std::max(sizes->dy_x, std::fabs(o.dy[at] * x[at]));
      sizes->terms += std::fabs(h * x[at] * r);
    }
  }
  return sum;
}

// Central differences, h = 2^-17 for x. L is linear in g, so there any step is exact. With n
// columns and u = 2^-24:
//   truncation  h^2 / 6 |L'''|, |L'''| <= 24 r^3 max|g dy| (differentiate x_i r thrice; |x_i r| <=
//               sqrt n, and each x_j r^2 brings 1/n)
//   rounding    L has n rows + n operations: that times 2^-53 sum|terms| / h
//   dx          r: (n / 32 + 8) u relative; x h: n / 16 + 5 roundings of terms that sum to at most
//               n max|g dy| |x|; so the second term, at most sqrt(n) times the first, which is
//               max|g dy| r, carries (n / 6 + 32) u
//   dg          a chain of `rows` steps on terms with r's error and two roundings
TEST(RmsNormBackward, EqualsCentralDifferences) {
  for (const Case& c : {Case{1, 5, 5, true}, Case{3, 21, 24, true}, Case{4, 40, 40, false}}) {
    const Operands o(c);
    const std::vector<double> x64(o.x.begin(), o.x.end()), g64(o.g.begin(), o.g.end());
    const auto x_slope = [&](size_t i) {
      std::vector<double> up = x64, down = x64;
      up[i] += 0x1p-17;
      down[i] -= 0x1p-17;
      return (loss(o, up, g64) - loss(o, down, g64)) * 0x1p16;
    };
    const auto g_slope = [&](size_t i) {
      std::vector<double> up = g64, down = g64;
      up[i] += 0.5;
      down[i] -= 0.5;
      return loss(o, x64, up) - loss(o, x64, down);
    };
    Sizes size;
    loss(o, x64, g64, &size);
    const auto n = static_cast<double>(c.columns), rows = static_cast<double>(c.rows);
    const double u = 0x1p-24;
    const double x_tolerance = 4 * 0x1p-34 * std::pow(size.r, 3) * size.h +
                               (n * rows + n) * 0x1p-53 * size.terms * 0x1p17 +
                               (n / 6 + 32) * u * size.r * size.h * (1 + std::sqrt(n));
    const double g_tolerance = (rows + n / 32 + 10) * u * rows * size.dy_x * size.r;
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      const Gradients found = o.run(ctx);
      for (int64_t i = 0; i < c.rows * c.stride; ++i) {
        const auto at = static_cast<size_t>(i);
        const double expected = o.start.dx[at] + (i % c.stride < c.columns ? x_slope(at) : 0.0);
        EXPECT_NEAR(found.dx[at], expected, x_tolerance + u * std::fabs(expected)) << name << i;
      }
      for (size_t i = 0; i < o.g.size(); ++i) {
        const double expected = o.start.dg[i] + (c.weighted ? g_slope(i) : 0.0);
        const double start_roundings = rows * u * (std::fabs(o.start.dg[i]) + std::fabs(expected));
        EXPECT_NEAR(found.dg[i], expected, g_tolerance + start_roundings) << name << i;
      }
    });
  }
}

// An all-zero row: r = 1/sqrt(eps), and only the first term of dx is left.
TEST(RmsNormBackward, AnAllZeroRowPassesTheScaledGradient) {
  const std::vector<float> x(20, 0.0f), dy = random_values(20, 6);
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    std::vector<float> dx(20, 0.0f);
    rms_norm_backward(
        ctx, {x.data(), 20, nullptr, dy.data(), 20, dx.data(), 20, nullptr, 1, 20, 0x1p-20f});
    for (size_t i = 0; i < dx.size(); ++i) EXPECT_EQ(dx[i], dy[i] * 1024.0f) << name;
  });
}

}  // namespace
}  // namespace cachalot::ops
