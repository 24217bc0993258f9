#include "ops/loss/label_logprob.h"

#include "ops/elementwise/kernel_test.h"

namespace cachalot::ops {
namespace {

struct Case {
  int64_t rows, vocab_size;
  bool cut;
  float temperature;
};

constexpr Case kCases[] = {{3, 1, false, 1},  {4, 7, true, 1},      {5, 37, true, 0.5f},
                           {3, 64, false, 2}, {2, 1025, true, 1},   {2, 5000, false, 1},
                           {0, 9, false, 1},  {1, 4099, true, 1.5f}};

struct Operands {
  Case c;
  int64_t stride = (c.vocab_size + 7) / 8 + 1;
  std::vector<float> logits = random_values(c.rows * c.vocab_size, 1);
  std::vector<int32_t> labels;
  std::vector<uint8_t> allowed;
  std::vector<double> coefficients;

  explicit Operands(const Case& shape) : c(shape) {
    for (float& value : logits) value *= 3;
    for (int64_t t = 0; t < c.rows; ++t) {
      labels.push_back(static_cast<int32_t>(t * 5 % c.vocab_size));
      coefficients.push_back(0.5 - 0.75 * static_cast<double>(t));
      for (int64_t b = 0; b < stride; ++b)
        allowed.push_back(static_cast<uint8_t>(37 * t + 73 * b + 11));
      allowed[t * stride + labels[t] / 8] |= static_cast<uint8_t>(1 << labels[t] % 8);
    }
  }
  bool is_allowed(int64_t t, int64_t v) const {
    return !c.cut || (allowed[t * stride + v / 8] >> v % 8 & 1) != 0;
  }
};

struct Found {
  std::vector<double> logprobs;
  std::vector<float> d_logits;
};

Found run(device::ExecContext& ctx, Operands& o, bool in_place) {
  Found found{std::vector<double>(o.labels.size()), std::vector<float>(o.logits.size(), 9.0f)};
  LabelLogprobParams p{.logits = o.logits.data(),
                       .logits_stride = o.c.vocab_size,
                       .labels = o.labels.data(),
                       .rows = o.c.rows,
                       .vocab_size = o.c.vocab_size,
                       .temperature = o.c.temperature,
                       .logprobs = found.logprobs.data(),
                       .coefficients = o.coefficients.data(),
                       .d_logits = in_place ? o.logits.data() : found.d_logits.data(),
                       .d_logits_stride = o.c.vocab_size};
  if (o.c.cut) {
    p.allowed = o.allowed.data();
    p.allowed_stride = o.stride;
  }
  label_logprob(ctx, p);
  if (in_place) found.d_logits = o.logits;
  return found;
}

TEST(LabelLogprob, EveryVersionHasTheReferenceBits) {
  for (const Case& c : kCases) {
    Operands operands(c);
    TestContext reference(device::Isa::reference);
    const Found expected = run(reference, operands, false);
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      for (const bool in_place : {false, true}) {
        Operands o(c);
        const Found found = run(ctx, o, in_place);
        EXPECT_EQ(found.logprobs, expected.logprobs) << name << ", " << c.vocab_size;
        EXPECT_EQ(found.d_logits, expected.d_logits) << name << ", " << c.vocab_size;
      }
    });
  }
}

// The bounds: terms have 1 ulp of error each, chains of at most 64 fp32 additions and one rounding
// more: 70 ulp of 2^-24 are 4.2e-6, of a sum in which all terms are positive.
TEST(LabelLogprob, EqualsTheFormulaInDouble) {
  for (const Case& c : kCases) {
    Operands o(c);
    TestContext ctx(device::machine_isa());
    const Found found = run(ctx, o, false);
    for (int64_t t = 0; t < c.rows; ++t) {
      const auto z = [&](int64_t v) {
        return static_cast<double>(o.logits[t * c.vocab_size + v]) / c.temperature;
      };
      double sum = 0;
      for (int64_t v = 0; v < c.vocab_size; ++v) {
        if (o.is_allowed(t, v)) sum += std::exp(z(v));
      }
      EXPECT_NEAR(found.logprobs[t], z(o.labels[t]) - std::log(sum), 4.2e-6);
      for (int64_t v = 0; v < c.vocab_size; ++v) {
        const double p = o.is_allowed(t, v) ? std::exp(z(v)) / sum : 0;
        const double expected = o.coefficients[t] / c.temperature * ((v == o.labels[t]) - p);
        EXPECT_NEAR(found.d_logits[t * c.vocab_size + v], expected,
                    4.2e-6 * std::abs(o.coefficients[t] / c.temperature));
      }
    }
  }
}

TEST(LabelLogprobDeathTest, LabelsAreAllowed) {
  Operands o({1, 16, true, 1});
  o.allowed[0] = 0xFE;
  TestContext ctx(device::Isa::reference);
  EXPECT_DEATH(run(ctx, o, false), "is_allowed");
}

}  // namespace
}  // namespace cachalot::ops
