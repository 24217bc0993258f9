#include "ops/loss/mixture_kl.h"

#include "ops/elementwise/kernel_test.h"

namespace cachalot::ops {
namespace {

struct Case {
  int64_t rows, vocab_size, teachers;
};

// Row t has teacher k unless (t + k) % 3 == 2: rows without the first, and without any where there
// is one.
struct Operands {
  Case c;
  std::vector<float> logits;
  std::vector<std::vector<float>> teachers;
  std::vector<double> scales;

  explicit Operands(const Case& shape) : c(shape) {
    const auto values = [&](uint64_t seed) {
      std::vector<float> out = random_values(c.rows * c.vocab_size, seed);
      for (float& value : out) value *= 4;
      return out;
    };
    logits = values(1);
    for (int64_t k = 0; k < c.teachers; ++k)
      teachers.push_back(values(2 + static_cast<uint64_t>(k)));
    for (int64_t t = 0; t < c.rows; ++t) scales.push_back(0.5 - 0.3 * static_cast<double>(t));
  }
  float weight(int64_t t, int64_t k) const {
    return (t + k) % 3 == 2 ? 0.0f : 0.25f + 0.7f * static_cast<float>(k);
  }
};

struct Found {
  std::vector<double> losses;
  std::vector<float> d_logits;
};

// stretch: entries that are mixed at once, or 0 for all.
Found run(device::ExecContext& ctx, const Operands& o, int64_t stretch, bool with_gradient = true) {
  const auto [rows, vocab_size, num_teachers] = o.c;
  if (stretch == 0) stretch = vocab_size;
  std::vector<float> mixed(o.logits.size(), 0.0f);
  std::vector<MixtureLog> logs(static_cast<size_t>(rows));
  for (int64_t k = 0; k < num_teachers; ++k) {
    std::vector<int32_t> places;
    std::vector<float> weights;
    for (int64_t t = rows; t-- > 0;) {  // in an order of their own
      if (o.weight(t, k) == 0) continue;
      places.push_back(static_cast<int32_t>(t));
      weights.push_back(o.weight(t, k));
    }
    std::vector<ExpTotal> totals(places.size());
    for (int64_t first = 0; first < vocab_size; first += stretch) {
      const int64_t count = std::min(stretch, vocab_size - first);
      std::vector<float> chunk;
      for (const int32_t t : places) {
        const float* u = o.teachers[k].data() + t * vocab_size + first;
        chunk.insert(chunk.end(), u, u + count);
      }
      mix_teacher(ctx, {chunk.data(), count, static_cast<int64_t>(places.size()), first, count,
                        places.data(), weights.data(), mixed.data(), vocab_size, totals.data()});
    }
    for (size_t i = 0; i < places.size(); ++i) logs[places[i]].add(weights[i], totals[i]);
  }
  Found found{std::vector<double>(static_cast<size_t>(rows)), {}};
  MixtureKlParams p{.logits = o.logits.data(),
                    .logits_stride = vocab_size,
                    .mixed = mixed.data(),
                    .mixed_stride = vocab_size,
                    .rows = rows,
                    .vocab_size = vocab_size,
                    .logs = logs.data(),
                    .losses = found.losses.data()};
  if (with_gradient) {
    p.scales = o.scales.data();
    p.d_logits = mixed.data();
    p.d_logits_stride = vocab_size;
  }
  mixture_kl(ctx, p);
  found.d_logits = std::move(mixed);
  return found;
}

constexpr Case kCases[] = {{3, 1, 1},    {4, 7, 2},     {5, 37, 3}, {3, 1024, 1},
                           {2, 1025, 2}, {2, 5000, 12}, {0, 9, 1},  {1, 4099, 1}};

TEST(MixtureKl, EveryVersionHasTheReferenceBits) {
  for (const Case& c : kCases) {
    const Operands o(c);
    TestContext reference(device::Isa::reference);
    const Found expected = run(reference, o, 0);
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      const Found found = run(ctx, o, 0);
      EXPECT_EQ(found.losses, expected.losses) << name << ", " << c.vocab_size;
      EXPECT_EQ(found.d_logits, expected.d_logits) << name << ", " << c.vocab_size;
      EXPECT_EQ(run(ctx, o, 0, false).losses, expected.losses) << name << ", " << c.vocab_size;
    });
  }
}

// reference/post-training OP3.
TEST(MixtureKl, StretchesOfTheVocabularyChangeNoBit) {
  for (const Case& c : {Case{3, 5000, 3}, Case{2, 2048, 1}}) {
    const Operands o(c);
    TestContext ctx(device::machine_isa());
    const Found whole = run(ctx, o, 0);
    for (const int64_t stretch : {kMixStretch, 3 * kMixStretch}) {
      const Found cut = run(ctx, o, stretch);
      EXPECT_EQ(cut.losses, whole.losses) << stretch;
      EXPECT_EQ(cut.d_logits, whole.d_logits) << stretch;
    }
  }
}

struct Double {
  double loss = 0;
  std::vector<double> ratio, p;
};

// By the definition.
Double in_double(const Operands& o, int64_t t, const std::vector<double>& z) {
  const auto log_softmax = [](const std::vector<double>& x) {
    double sum = 0;
    for (const double value : x) sum += std::exp(value);
    std::vector<double> out;
    for (const double value : x) out.push_back(value - std::log(sum));
    return out;
  };
  Double out;
  const std::vector<double> log_p = log_softmax(z);
  out.ratio.assign(z.size(), 0);
  for (int64_t k = 0; k < o.c.teachers; ++k) {
    const float* u = o.teachers[k].data() + t * o.c.vocab_size;
    const std::vector<double> log_q = log_softmax({u, u + o.c.vocab_size});
    for (size_t v = 0; v < z.size(); ++v)
      out.ratio[v] += static_cast<double>(o.weight(t, k)) * (log_p[v] - log_q[v]);
  }
  for (size_t v = 0; v < z.size(); ++v) {
    out.p.push_back(std::exp(log_p[v]));
    out.loss += out.p[v] * out.ratio[v];
  }
  return out;
}

std::vector<double> policy(const Operands& o, int64_t t) {
  const float* z = o.logits.data() + t * o.c.vocab_size;
  return {z, z + o.c.vocab_size};
}

// A term of exp_sum has 1 ulp of error and its sum 70 more (label_logprob_test.cpp): 4.2e-6 of p
// and of a total, whose logarithm is off by as much, times the weights; `mixed` has a rounding of
// 2^-24 of 4 for each product and sum. Ratios are at most 60 here.
TEST(MixtureKl, EqualsTheFormulaInDouble) {
  for (const Case& c : kCases) {
    const Operands o(c);
    TestContext ctx(device::machine_isa());
    const Found found = run(ctx, o, 0);
    for (int64_t t = 0; t < c.rows; ++t) {
      double weights = 0;
      for (int64_t k = 0; k < c.teachers; ++k) weights += static_cast<double>(o.weight(t, k));
      const double of_ratio = 2 * 4.2e-6 * weights + 0x1p-24 * 8 * weights * c.teachers;
      const Double expected = in_double(o, t, policy(o, t));
      double magnitude = 0;
      for (size_t v = 0; v < expected.p.size(); ++v)
        magnitude += expected.p[v] * std::abs(expected.ratio[v]);
      const double of_loss = of_ratio + 2 * 4.2e-6 * magnitude;
      EXPECT_NEAR(found.losses[t], expected.loss, of_loss);
      for (int64_t v = 0; v < c.vocab_size; ++v) {
        const double term = expected.ratio[v] - expected.loss;
        EXPECT_NEAR(found.d_logits[t * c.vocab_size + v], o.scales[t] * expected.p[v] * term,
                    std::abs(o.scales[t]) * expected.p[v] *
                            (of_ratio + of_loss + 2 * 4.2e-6 * std::abs(term)) +
                        1e-30);
      }
    }
  }
}

// reference/post-training OP1: h = 2^-12; truncation h^2 / 6 times a third derivative of at most
// about a hundred ratios.
TEST(MixtureKl, GradientEqualsCentralDifferences) {
  const Operands o({4, 19, 2});
  TestContext ctx(device::machine_isa());
  const Found found = run(ctx, o, 0);
  for (int64_t t = 0; t < o.c.rows; ++t) {
    for (int64_t v = 0; v < o.c.vocab_size; ++v) {
      std::vector<double> up = policy(o, t), down = up;
      up[v] += 0x1p-12;
      down[v] -= 0x1p-12;
      const double slope = (in_double(o, t, up).loss - in_double(o, t, down).loss) * 0x1p11;
      EXPECT_NEAR(found.d_logits[t * o.c.vocab_size + v], o.scales[t] * slope, 5e-5) << t << v;
    }
  }
}

// OP1: of one teacher, 0 where it is the policy, and only there.
TEST(MixtureKl, IsZeroForThePolicyItself) {
  Operands o({3, 3000, 1});
  o.teachers[0] = o.logits;
  o.teachers[0][3000] += 0.01f;
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    std::vector<float> mixed(o.logits.size(), 0.0f);
    std::vector<ExpTotal> totals(3);
    const std::vector<int32_t> places = {0, 1, 2};
    const std::vector<float> weights = {1, 1, 0.5f};
    mix_teacher(ctx, {o.teachers[0].data(), 3000, 3, 0, 3000, places.data(), weights.data(),
                      mixed.data(), 3000, totals.data()});
    std::vector<MixtureLog> logs(3);
    for (size_t t = 0; t < 3; ++t) logs[t].add(weights[t], totals[t]);
    std::vector<double> losses(3);
    mixture_kl(ctx, {.logits = o.logits.data(),
                     .logits_stride = 3000,
                     .mixed = mixed.data(),
                     .mixed_stride = 3000,
                     .rows = 3,
                     .vocab_size = 3000,
                     .logs = logs.data(),
                     .scales = o.scales.data(),
                     .losses = losses.data(),
                     .d_logits = mixed.data(),
                     .d_logits_stride = 3000});
    EXPECT_EQ(losses[0], 0) << name;
    EXPECT_GT(losses[1], 0) << name;
    EXPECT_EQ(losses[2], 0) << name;
    for (size_t v = 0; v < 3000; ++v) {
      EXPECT_EQ(mixed[v], 0) << name;
      EXPECT_EQ(mixed[6000 + v], 0) << name;
    }
    EXPECT_NE(mixed[3000], 0) << name;
  });
}

// reference/post-training 15: a mixture's gradient vanishes at the normalised geometric mean g of
// its teachers, where the loss is -log of what normalises it.
TEST(MixtureKl, OfAMixtureIsLeastAtTheGeometricMean) {
  Operands o({1, 23, 2});
  double normaliser = 0, weights = 0;
  std::vector<double> log_g(23, 0);
  for (int64_t k = 0; k < 2; ++k) {
    const double weight = o.weight(0, k);
    weights += weight;
    double sum = 0;
    for (const float u : o.teachers[k]) sum += std::exp(static_cast<double>(u));
    for (size_t v = 0; v < 23; ++v) log_g[v] += weight * (o.teachers[k][v] - std::log(sum));
  }
  for (double& value : log_g) value /= weights;
  for (const double value : log_g) normaliser += std::exp(value);
  for (size_t v = 0; v < 23; ++v) o.logits[v] = static_cast<float>(log_g[v]);
  TestContext ctx(device::machine_isa());
  const Found found = run(ctx, o, 0);
  EXPECT_NEAR(found.losses[0], -weights * std::log(normaliser), 3e-5);
  EXPECT_GT(found.losses[0], 0.05);
  for (const float d : found.d_logits) EXPECT_NEAR(d, 0, 3e-5);
}

// reference/post-training OP2: the mean over the policy of coefficient * grad log p(y), with the
// coefficient log p(y) - log q(y) of the sampled estimator, is the whole gradient; its variance is
// above 0 wherever the two differ.
TEST(MixtureKl, IsTheMeanOfTheSampledEstimator) {
  const Operands o({3, 31, 2});
  TestContext ctx(device::machine_isa());
  const Found found = run(ctx, o, 0);
  for (int64_t t = 0; t < o.c.rows; ++t) {
    const Double d = in_double(o, t, policy(o, t));
    for (size_t v = 0; v < d.p.size(); ++v) {
      double mean = 0, square = 0;
      for (size_t y = 0; y < d.p.size(); ++y) {
        const double estimate = o.scales[t] * d.ratio[y] * ((y == v ? 1.0 : 0.0) - d.p[v]);
        mean += d.p[y] * estimate;
        square += d.p[y] * estimate * estimate;
      }
      EXPECT_NEAR(found.d_logits[t * 31 + static_cast<int64_t>(v)], mean, 2e-5);
      EXPECT_GT(square - mean * mean, 0);
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
