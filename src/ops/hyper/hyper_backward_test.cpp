#include "ops/elementwise/gradient_test.h"
#include "ops/hyper/hyper_connection.h"

namespace cachalot::ops {
namespace {

TEST(HyperInvRmsBackward, IsTheGradient) {
  for (int64_t columns : {1, 15, 16, 40, 4 * 33}) {
    const int64_t rows = 3;
    const std::vector<float> x = random_values(rows * columns, 81), d = random_values(rows, 82);
    const std::vector<float> before = random_values(rows * columns, 83);
    std::vector<float> inv_rms(rows), found = before;
    TestContext ctx(device::machine_isa(), 2);
    hyper_inv_rms(ctx, x.data(), rows, columns, 1e-6f, inv_rms.data());
    hyper_inv_rms_backward(ctx, x.data(), inv_rms.data(), d.data(), rows, columns, found.data());
    const Doubles gradient = central_differences(widened(x), [&](const Doubles& v) {
      double sum = 0;
      for (int64_t row = 0; row < rows; ++row) {
        double squares = 0;
        for (int64_t i = 0; i < columns; ++i)
          squares += v[row * columns + i] * v[row * columns + i];
        sum += d[row] / std::sqrt(squares / static_cast<double>(columns) + 1e-6);
      }
      return sum;
    });
    // inv_rms is right to (columns / 16 / 2 + 5) roundings and enters cubed.
    const double inverse = largest(inv_rms);
    const double tolerance = 0x1p-24 * (3 * (static_cast<double>(columns) / 32 + 5) + 5) *
                             largest(d) * largest(x) * inverse * inverse * inverse;
    expect_added(before, found, gradient, tolerance, std::to_string(columns) + " columns");
  }
}

struct MixCase {
  int64_t rows, n, d;
};

struct MixInputs {
  std::vector<float> streams, y, pre, comb, d_u, d_out;
  explicit MixInputs(const MixCase& c)
      : streams(random_values(c.rows * c.n * c.d, 91)),
        y(random_values(c.rows * c.d, 92)),
        pre(random_values(c.rows * c.n, 93)),
        comb(random_values(c.rows * c.n * c.n, 94)),
        d_u(random_values(c.rows * c.d, 95)),
        d_out(random_values(c.rows * c.n * c.d, 96)) {}
};

struct MixGradients {
  std::vector<float> streams, y, pre, comb;
  explicit MixGradients(const MixCase& c)
      : streams(random_values(c.rows * c.n * c.d, 97)),
        y(random_values(c.rows * c.d, 98)),
        pre(random_values(c.rows * c.n, 99)),
        comb(random_values(c.rows * c.n * c.n, 100)) {}
};

void run_pre_backward(device::ExecContext& ctx, const MixCase& c, const MixInputs& in,
                      MixGradients& out) {
  hyper_pre_backward(ctx, {in.streams.data(), in.pre.data(), in.d_u.data(), c.rows, c.n, c.d,
                           out.streams.data(), out.pre.data()});
}
// post has the values of pre here.
void run_post_backward(device::ExecContext& ctx, const MixCase& c, const MixInputs& in,
                       MixGradients& out) {
  hyper_post_backward(
      ctx, {in.streams.data(), in.y.data(), in.pre.data(), in.comb.data(), in.d_out.data(), c.rows,
            c.n, c.d, out.streams.data(), out.y.data(), out.pre.data(), out.comb.data()});
}

// Rounding of a sum over d of products of two inputs, in 16 chains; over streams it is less.
double dot_tolerance(const MixCase& c, const std::vector<float>& a, const std::vector<float>& b) {
  const auto d = static_cast<double>(c.d);
  return 0x1p-24 * (d / 16 + 6 + static_cast<double>(c.n)) * std::max(d, static_cast<double>(c.n)) *
         largest(a) * largest(b);
}

TEST(HyperPreBackward, IsTheGradient) {
  for (const MixCase& c : {MixCase{1, 1, 1}, {2, 4, 17}, {3, 3, 15}, {2, 8, 33}, {2, 4, 32}}) {
    const MixInputs in(c);
    const MixGradients before(c);
    MixGradients found = before;
    TestContext ctx(device::machine_isa(), 2);
    run_pre_backward(ctx, c, in, found);
    const auto product = [&](const Doubles& x, const Doubles& pre) {
      double sum = 0;
      for (int64_t s = 0; s < c.rows * c.n; ++s) {
        for (int64_t i = 0; i < c.d; ++i)
          sum += in.d_u[s / c.n * c.d + i] * pre[s] * x[s * c.d + i];
      }
      return sum;
    };
    const Doubles x = widened(in.streams), pre = widened(in.pre);
    expect_added(before.streams, found.streams,
                 central_differences(x, [&](const Doubles& v) { return product(v, pre); }),
                 dot_tolerance(c, in.pre, in.d_u), "streams");
    expect_added(before.pre, found.pre,
                 central_differences(pre, [&](const Doubles& v) { return product(x, v); }),
                 dot_tolerance(c, in.d_u, in.streams), "pre");
  }
}

TEST(HyperPostBackward, IsTheGradient) {
  for (const MixCase& c : {MixCase{1, 1, 1}, {2, 4, 17}, {3, 3, 15}, {2, 8, 19}, {1, 4, 32}}) {
    const MixInputs in(c);
    const MixGradients before(c);
    MixGradients found = before;
    TestContext ctx(device::machine_isa(), 2);
    run_post_backward(ctx, c, in, found);
    // reference/forward 2.5: the sum runs over comb's first index.
    const auto product = [&](const Doubles& x, const Doubles& y, const Doubles& post,
                             const Doubles& comb) {
      double sum = 0;
      for (int64_t row = 0; row < c.rows; ++row) {
        for (int64_t k = 0; k < c.n; ++k) {
          for (int64_t i = 0; i < c.d; ++i) {
            double out = post[row * c.n + k] * y[row * c.d + i];
            for (int64_t j = 0; j < c.n; ++j) {
              out += comb[(row * c.n + j) * c.n + k] * x[(row * c.n + j) * c.d + i];
            }
            sum += in.d_out[(row * c.n + k) * c.d + i] * out;
          }
        }
      }
      return sum;
    };
    const Doubles x = widened(in.streams), y = widened(in.y), post = widened(in.pre),
                  comb = widened(in.comb);
    expect_added(
        before.streams, found.streams,
        central_differences(x, [&](const Doubles& v) { return product(v, y, post, comb); }),
        dot_tolerance(c, in.comb, in.d_out), "streams");
    expect_added(
        before.y, found.y,
        central_differences(y, [&](const Doubles& v) { return product(x, v, post, comb); }),
        dot_tolerance(c, in.pre, in.d_out), "y");
    expect_added(
        before.pre, found.pre,
        central_differences(post, [&](const Doubles& v) { return product(x, y, v, comb); }),
        dot_tolerance(c, in.y, in.d_out), "post");
    expect_added(
        before.comb, found.comb,
        central_differences(comb, [&](const Doubles& v) { return product(x, y, post, v); }),
        dot_tolerance(c, in.streams, in.d_out), "comb");
  }
}

TEST(HyperBackward, EveryVersionHasTheReferenceBits) {
  std::vector<MixCase> cases;
  for (int64_t d = 1; d <= 33; d += 4) cases.push_back({3, 1 + d % 8, d});
  for (int64_t d : {16, 255, 256, 257, 1024}) cases.push_back({5, 4, d});
  cases.push_back({0, 4, 16});
  cases.push_back({1, 4, 4096});
  cases.push_back({40, 2, 300});
  for (const MixCase& c : cases) {
    const MixInputs in(c);
    const std::vector<float> factors = random_values(c.rows, 101);
    const auto run = [&](device::ExecContext& ctx) {
      MixGradients out(c);
      run_pre_backward(ctx, c, in, out);
      run_post_backward(ctx, c, in, out);
      hyper_inv_rms_backward(ctx, in.streams.data(), in.d_u.data(), factors.data(), c.rows,
                             c.n * c.d, out.streams.data());
      return out;
    };
    TestContext reference(device::Isa::reference);
    const MixGradients expected = run(reference);
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      const MixGradients found = run(ctx);
      const std::string where = name + ", n " + std::to_string(c.n) + ", d " + std::to_string(c.d);
      expect_same_values(expected.streams, found.streams, "streams, " + where);
      expect_same_values(expected.y, found.y, "y, " + where);
      expect_same_values(expected.pre, found.pre, "pre and post, " + where);
      expect_same_values(expected.comb, found.comb, "comb, " + where);
    });
  }
}

}  // namespace
}  // namespace cachalot::ops
