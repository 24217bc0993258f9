#include "ops/loss/cross_entropy.h"

#include "ops/elementwise/kernel_test.h"

namespace cachalot::ops {
namespace {

struct Case {
  int64_t rows, vocab_size, stride;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (int64_t vocab_size = 1; vocab_size <= 33; ++vocab_size)
    all.push_back({4, vocab_size, vocab_size + vocab_size % 3});
  for (int64_t vocab_size : {1023, 1024, 1025, 1040, 3001})
    all.push_back({7, vocab_size, vocab_size});
  all.push_back({1, 129280, 129280});
  all.push_back({0, 5, 5});
  return all;
}

struct Operands {
  Case c;
  std::vector<float> logits;
  std::vector<int32_t> labels;

  // Every fourth row is masked, with a different negative number each.
  explicit Operands(const Case& shape, double size = 4) : c(shape) {
    logits = random_values(c.rows * c.stride, 1);
    for (float& value : logits) value *= static_cast<float>(size);
    for (int64_t t = 0; t < c.rows; ++t)
      labels.push_back(static_cast<int32_t>(t % 4 == 2 ? -100 + t : t * 7 % c.vocab_size));
  }
};

struct Result {
  double sum = 0.75;  // what the sum starts from
  std::vector<double> losses;
  std::vector<float> d_logits;
};

enum class Gradient { none, apart, in_place };

void run_rows(device::ExecContext& ctx, Operands& o, Gradient gradient, int64_t begin, int64_t end,
              Result& result) {
  float* logits = o.logits.data() + begin * o.c.stride;
  CrossEntropyParams p{.logits = logits,
                       .logits_stride = o.c.stride,
                       .labels = o.labels.data() + begin,
                       .rows = end - begin,
                       .vocab_size = o.c.vocab_size,
                       .scale = 0.3f,
                       .losses = result.losses.data() + begin};
  if (gradient != Gradient::none) {
    p.d_logits =
        gradient == Gradient::in_place ? logits : result.d_logits.data() + begin * o.c.stride;
    p.d_logits_stride = o.c.stride;
  }
  result.sum = cross_entropy(ctx, p, result.sum);
}

Result run(device::ExecContext& ctx, Operands o, Gradient gradient) {
  Result result{.losses = std::vector<double>(o.labels.size(), -1),
                .d_logits = o.logits};  // padding stays as in the logits
  run_rows(ctx, o, gradient, 0, o.c.rows, result);
  if (gradient == Gradient::in_place) result.d_logits = o.logits;
  return result;
}

void expect_same(const Result& expected, const Result& found, const std::string& what) {
  EXPECT_EQ(std::bit_cast<uint64_t>(expected.sum), std::bit_cast<uint64_t>(found.sum)) << what;
  ASSERT_EQ(expected.losses.size(), found.losses.size());
  for (size_t t = 0; t < found.losses.size(); ++t) {
    EXPECT_EQ(std::bit_cast<uint64_t>(expected.losses[t]), std::bit_cast<uint64_t>(found.losses[t]))
        << what << ", row " << t;
  }
  expect_same_values(expected.d_logits, found.d_logits, what);
}

TEST(CrossEntropy, EveryVersionHasTheReferenceBits) {
  for (const Case& c : cases()) {
    const Operands operands(c);
    TestContext reference(device::Isa::reference);
    const Result expected = run(reference, operands, Gradient::apart);
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      const std::string what = name + ", vocabulary " + std::to_string(c.vocab_size);
      expect_same(expected, run(ctx, operands, Gradient::apart), what);
      expect_same(expected, run(ctx, operands, Gradient::in_place), what + ", in place");
      Result losses_only = run(ctx, operands, Gradient::none);
      EXPECT_EQ(losses_only.d_logits, operands.logits);
      losses_only.d_logits = expected.d_logits;
      expect_same(expected, losses_only, what + ", losses only");
    });
  }
}

TEST(CrossEntropy, RowsInSeveralCallsGiveTheSameBits) {
  const Operands operands({19, 77, 80});
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    Operands o = operands;
    Result cut{.losses = std::vector<double>(19, -1), .d_logits = o.logits};
    int64_t begin = 0;
    for (int64_t end : {1, 3, 12, 19}) {
      run_rows(ctx, o, Gradient::apart, begin, end, cut);
      begin = end;
    }
    expect_same(run(ctx, operands, Gradient::apart), cut, name);
  });
}

// A weighted row has the loss and the gradient of its own, times its weight: by powers of two
// exactly.
TEST(CrossEntropy, WeightsMultiply) {
  const Operands operands({5, 77, 80});
  const std::vector<float> weights = {1, 0.25f, 8, 0, 2};
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    const Result plain = run(ctx, operands, Gradient::apart);
    std::vector<float> d = operands.logits;
    std::vector<double> losses(5);
    const double sum = cross_entropy(ctx, {.logits = operands.logits.data(),
                                           .logits_stride = 80,
                                           .labels = operands.labels.data(),
                                           .rows = 5,
                                           .vocab_size = 77,
                                           .scale = 0.3f,
                                           .weights = weights.data(),
                                           .d_logits = d.data(),
                                           .d_logits_stride = 80,
                                           .losses = losses.data()});
    EXPECT_EQ(losses, plain.losses) << name;
    double expected = 0;
    for (size_t t = 0; t < 5; ++t) {
      expected += weights[t] * plain.losses[t];
      for (size_t v = 0; v < 77; ++v)
        EXPECT_EQ(d[t * 80 + v], weights[t] * plain.d_logits[t * 80 + v]) << name << t << " " << v;
    }
    EXPECT_EQ(sum, expected) << name;
  });
}

// Softmax and logarithm in double. e has an ulp (2^-23) and the rounding of x - m, |x - m| < 64 so
// 2^-19 absolute in the exponent; a run's sum 64 + 4 roundings, all of positive terms: relative
// 2^-17 in all, for sum and softmax. Two products round once each.
TEST(CrossEntropy, EqualsTheFormulaInDouble) {
  for (const Case& c : {Case{4, 1, 1}, Case{5, 37, 40}, Case{3, 5000, 5000}}) {
    const Operands o(c);
    TestContext ctx(device::machine_isa());
    const Result found = run(ctx, o, Gradient::apart);
    double sum = 0.75;
    for (int64_t t = 0; t < c.rows; ++t) {
      const float* x = o.logits.data() + t * c.stride;
      const int32_t label = o.labels[t];
      double total = 0;
      for (int64_t v = 0; v < c.vocab_size; ++v) total += std::exp(static_cast<double>(x[v]));
      const double loss = label < 0 ? 0 : std::log(total) - x[label];
      sum += loss;
      EXPECT_NEAR(found.losses[t], loss, label < 0 ? 0 : 0x1p-17);
      for (int64_t v = 0; v < c.vocab_size; ++v) {
        const double softmax = std::exp(static_cast<double>(x[v])) / total;
        const double expected = label < 0 ? 0 : double{0.3f} * (softmax - (v == label ? 1.0 : 0.0));
        EXPECT_NEAR(found.d_logits[t * c.stride + v], expected,
                    label < 0 ? 0 : 0.3 * softmax * 0x1p-16 + 0x1p-24 * std::fabs(expected))
            << t << " " << v;
      }
    }
    EXPECT_NEAR(found.sum, sum, static_cast<double>(c.rows) * 0x1p-17);
  }
}

// L = 0.3 times the losses in double; h = 2^-12: truncation h^2 / 6 times a third derivative below
// 1, rounding 2^-40; the gradient's own error as above, of softmax <= 1.
TEST(CrossEntropy, GradientEqualsCentralDifferences) {
  const Case c{5, 19, 19};
  const Operands o(c);
  const auto loss = [&](const std::vector<double>& x) {
    double sum = 0;
    for (int64_t t = 0; t < c.rows; ++t) {
      if (o.labels[t] < 0) continue;
      double total = 0;
      for (int64_t v = 0; v < c.vocab_size; ++v) total += std::exp(x[t * c.stride + v]);
      sum += double{0.3f} * (std::log(total) - x[t * c.stride + o.labels[t]]);
    }
    return sum;
  };
  const std::vector<double> x64(o.logits.begin(), o.logits.end());
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    const Result found = run(ctx, o, Gradient::in_place);
    for (size_t i = 0; i < x64.size(); ++i) {
      std::vector<double> up = x64, down = x64;
      up[i] += 0x1p-12;
      down[i] -= 0x1p-12;
      EXPECT_NEAR(found.d_logits[i], (loss(up) - loss(down)) * 0x1p11,
                  0x1p-24 / 6 + 0x1p-16 + 0x1p-24)
          << name << " " << i;
    }
  });
}

// The maximum leaves before the exponential: nothing overflows, an unlikely label has a large
// finite loss, a certain one none.
TEST(CrossEntropy, TakesLogitsOfAnySize) {
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    const std::vector<float> logits = {1e30f,  -1e30f, 0.0f, -3e30f, -1e30f,
                                       -2e30f, -kInf,  5.0f, -kInf};
    const std::vector<int32_t> labels = {1, 1, 1};
    std::vector<float> d(9);
    std::vector<double> losses(3);
    cross_entropy(ctx, {.logits = logits.data(),
                        .logits_stride = 3,
                        .labels = labels.data(),
                        .rows = 3,
                        .vocab_size = 3,
                        .d_logits = d.data(),
                        .d_logits_stride = 3,
                        .losses = losses.data()});
    EXPECT_EQ(losses[0], double{1e30f} * 2) << name;
    EXPECT_EQ(losses[1], 0.0) << name;
    EXPECT_EQ(losses[2], 0.0) << name;
    EXPECT_EQ(d, (std::vector<float>{1, -1, 0, 0, 0, 0, 0, 0, 0})) << name;
  });
}

TEST(CrossEntropy, NotANumberStaysInItsRow) {
  for (const std::vector<float>& bad :
       {std::vector<float>{0, kNan, 1}, {0, kInf, 1}, {-kInf, -kInf, -kInf}}) {
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      std::vector<float> logits = {1, 2, 3};
      logits.insert(logits.end(), bad.begin(), bad.end());
      logits.insert(logits.end(), {1, 2, 3});
      const std::vector<int32_t> labels = {0, 0, 0};
      std::vector<double> losses(3);
      cross_entropy(ctx, {.logits = logits.data(),
                          .logits_stride = 3,
                          .labels = labels.data(),
                          .rows = 3,
                          .vocab_size = 3,
                          .d_logits = logits.data(),
                          .d_logits_stride = 3,
                          .losses = losses.data()});
      EXPECT_TRUE(std::isnan(losses[1])) << name;
      for (int i = 3; i < 6; ++i) EXPECT_TRUE(std::isnan(logits[i])) << name << " " << i;
      EXPECT_TRUE(std::isfinite(losses[0]) && losses[0] == losses[2]) << name;
    });
  }
}

TEST(CrossEntropyDeathTest, LabelsLieInTheVocabulary) {
  const std::vector<float> logits(3, 0.0f);
  const int32_t label = 3;
  TestContext context(device::Isa::reference);
  EXPECT_DEATH(cross_entropy(context, {.logits = logits.data(),
                                       .logits_stride = 3,
                                       .labels = &label,
                                       .rows = 1,
                                       .vocab_size = 3}),
               "label < p.vocab_size");
}

}  // namespace
}  // namespace cachalot::ops
