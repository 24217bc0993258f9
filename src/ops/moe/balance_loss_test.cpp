#include "ops/moe/balance_loss.h"

#include <algorithm>

#include "ops/elementwise/gradient_test.h"
#include "ops/moe/router.h"

namespace cachalot::ops {
namespace {

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights, scores;
};

Routed run_route(device::ExecContext& ctx, const std::vector<float>& logits, int64_t num_experts,
                 int64_t k, const float* bias = nullptr, const int32_t* fixed_ids = nullptr) {
  const auto rows = static_cast<int64_t>(logits.size()) / num_experts;
  Routed r{std::vector<int32_t>(rows * k), std::vector<float>(rows * k),
           std::vector<float>(rows * num_experts)};
  route(ctx, {logits.data(), rows, num_experts, k, bias, fixed_ids, 1.5f, r.ids.data(),
              r.weights.data(), r.scores.data()});
  return r;
}

constexpr float kAlpha = 1e-4f;

std::vector<float> losses(device::ExecContext& ctx, const Routed& r, int64_t num_experts, int64_t k,
                          const std::vector<TokenRange>& sequences) {
  std::vector<float> loss(sequences.size(), 7.0f);
  balance_loss(ctx, {r.scores.data(), r.ids.data(), num_experts, k, sequences, kAlpha},
               loss.data());
  return loss;
}

TEST(BalanceLoss, UniformLoadAndAffinityGiveAlphaExactly) {
  TestContext ctx(device::machine_isa(), 2);
  for (const auto& [num_experts, k] : {std::pair<int64_t, int64_t>{8, 2}, {6, 3}, {384, 6}}) {
    const int64_t rows = 2 * num_experts;
    std::vector<int32_t> round_robin;
    for (int64_t i = 0; i < rows * k; ++i) {
      round_robin.push_back(static_cast<int32_t>(i % num_experts));
    }
    const std::vector<float> logits(rows * num_experts, 0.3f);
    const Routed r = run_route(ctx, logits, num_experts, k, nullptr, round_robin.data());
    EXPECT_EQ(losses(ctx, r, num_experts, k, {{0, rows}})[0], kAlpha) << num_experts;
  }
}

// One expert's logit rises in more and more tokens: its load and its affinity grow together.
// Complete collapse onto one of E experts, alone chosen (k = 1), tends to alpha E.
TEST(BalanceLoss, GrowsUnderCollapse) {
  TestContext ctx(device::machine_isa());
  const int64_t num_experts = 8, rows = 64;
  const std::vector<float> balanced = random_values(rows * num_experts, 161);
  float last = 0;
  for (int64_t collapsed = 0; collapsed <= rows; collapsed += 16) {
    std::vector<float> logits = balanced;
    for (int64_t row = 0; row < collapsed; ++row) logits[row * num_experts + 5] = 12.0f;
    const Routed r = run_route(ctx, logits, num_experts, 1);
    const float loss = losses(ctx, r, num_experts, 1, {{0, rows}})[0];
    EXPECT_GT(loss, 1.05f * last) << collapsed;
    last = loss;
  }
  std::vector<float> logits(rows * num_experts, -80.0f);
  for (int64_t row = 0; row < rows; ++row) logits[row * num_experts + 5] = 20.0f;
  const Routed r = run_route(ctx, logits, num_experts, 1);
  EXPECT_NEAR(losses(ctx, r, num_experts, 1, {{0, rows}})[0], kAlpha * 8, 1e-9f);
}

// reference/training 6.6 in double from the logits on, the choice included: f is made again for
// every argument.
double loss_in_double(const Doubles& logits, int64_t num_experts, int64_t k,
                      const TokenRange& sequence) {
  const auto num_tokens = static_cast<double>(sequence.last - sequence.first);
  Doubles f(num_experts, 0.0), affinity(num_experts, 0.0);
  for (int64_t row = sequence.first; row < sequence.last; ++row) {
    std::vector<std::pair<double, int64_t>> scores;
    double sum = 0;
    for (int64_t e = 0; e < num_experts; ++e) {
      scores.emplace_back(-std::sqrt(std::log1p(std::exp(logits[row * num_experts + e]))), e);
      sum -= scores.back().first;
    }
    for (const auto& [negative, e] : scores) affinity[e] -= negative / sum / num_tokens;
    std::sort(scores.begin(), scores.end());
    for (int64_t i = 0; i < k; ++i) {
      f[scores[i].second] +=
          static_cast<double>(num_experts) / (static_cast<double>(k) * num_tokens);
    }
  }
  double loss = 0;
  for (int64_t e = 0; e < num_experts; ++e) loss += f[e] * affinity[e];
  return kAlpha * loss;
}

// The differences are of the whole loss, f included, which is constant around each argument; so
// what flows through P is all of the gradient.
TEST(BalanceLoss, GradientFlowsThroughTheMeanAffinity) {
  const int64_t num_experts = 7, k = 2, rows = 11;
  const std::vector<TokenRange> sequences = {{0, 5}, {6, 6}, {6, 7}, {7, 11}};  // row 5 is padding
  const std::vector<float> d_loss = {1.0f, 3.0f, -0.5f, 2.0f};
  const std::vector<float> logits = random_values(rows * num_experts, 162);
  TestContext ctx(device::machine_isa(), 2);
  const Routed r = run_route(ctx, logits, num_experts, k);

  const std::vector<float> loss = losses(ctx, r, num_experts, k, sequences);
  const Doubles z = widened(logits);
  for (size_t s = 0; s < sequences.size(); ++s) {
    const bool empty = sequences[s].first == sequences[s].last;
    // Scores and the result are rounded once.
    EXPECT_NEAR(loss[s], empty ? 0 : loss_in_double(z, num_experts, k, sequences[s]),
                4 * 0x1p-24 * kAlpha * static_cast<double>(num_experts));
  }

  std::vector<float> d_scores(rows * num_experts, 0.0f), d_logits(rows * num_experts, 0.0f);
  balance_loss_backward(ctx, {r.scores.data(), r.ids.data(), num_experts, k, sequences, kAlpha},
                        d_loss.data(), d_scores.data());
  const std::vector<float> no_weights(rows * k, 0.0f);
  route_backward(ctx, {logits.data(), r.scores.data(), r.ids.data(), rows, num_experts, k, 1.5f,
                       no_weights.data(), d_scores.data(), d_logits.data()});
  const Doubles gradient = central_differences(z, [&](const Doubles& v) {
    double sum = 0;
    for (size_t s = 0; s < sequences.size(); ++s) {
      if (sequences[s].first == sequences[s].last) continue;
      sum += d_loss[s] * loss_in_double(v, num_experts, k, sequences[s]);
    }
    return sum;
  });
  // Scores, d_score and the result are rounded once each: 4 roundings of alpha d_loss f, f <= E /
  // k, over a sum of scores that is above 1. The differences themselves are good to 1e-9 of the
  // loss.
  const double size = kAlpha * 3 * static_cast<double>(num_experts) / k;
  expect_added(std::vector<float>(d_logits.size(), 0.0f), d_logits, gradient,
               (4 * 0x1p-24 + 1e-9) * size, "logits");
  for (int64_t e = 0; e < num_experts; ++e) EXPECT_EQ(d_logits[5 * num_experts + e], 0.0f);
  // The gradient is far above the tolerance.
  EXPECT_GT(largest(d_logits), 1000 * (4 * 0x1p-24 + 1e-9) * size);
}

TEST(BalanceLoss, AddsAndDoesNotDependOnThreadsOrOtherSequences) {
  const int64_t num_experts = 9, k = 3, rows = 40;
  const std::vector<TokenRange> sequences = {{0, 3}, {3, 29}, {30, 40}};
  const std::vector<float> d_loss = {1.0f, 2.0f, 0.5f};
  TestContext reference(device::Isa::reference);
  const Routed r = run_route(reference, random_values(rows * num_experts, 163), num_experts, k);
  const std::vector<float> before = random_values(rows * num_experts, 164, 1e-3);
  const auto params = [&](std::span<const TokenRange> some) {
    return BalanceLossParams{r.scores.data(), r.ids.data(), num_experts, k, some, kAlpha};
  };
  std::vector<float> expected_loss(3), expected = before;
  for (size_t s = 0; s < 3; ++s) {
    balance_loss(reference, params({&sequences[s], 1}), &expected_loss[s]);
    balance_loss_backward(reference, params({&sequences[s], 1}), &d_loss[s], expected.data());
  }
  EXPECT_NE(expected, before);
  for_each_context([&](device::ExecContext& ctx, const std::string& name) {
    std::vector<float> loss(3), d_scores = before;
    balance_loss(ctx, params(sequences), loss.data());
    balance_loss_backward(ctx, params(sequences), d_loss.data(), d_scores.data());
    expect_same_values(expected_loss, loss, name);
    expect_same_values(expected, d_scores, name);
  });
}

TEST(BiasUpdate, MovesEveryExpertTowardTheMeanLoadByOneStep) {
  std::vector<float> bias = {0.0f, 0.5f, -0.5f, 1.0f};
  bias_update(std::vector<int64_t>{5, 2, 3, 2}, 0.25f, bias);  // mean 3
  EXPECT_EQ(bias, (std::vector<float>{-0.25f, 0.75f, -0.5f, 1.25f}));
  bias_update(std::vector<int64_t>{1, 0, 0}, 0.25f, std::span(bias).first(3));  // mean 1/3
  EXPECT_EQ(bias, (std::vector<float>{-0.5f, 1.0f, -0.25f, 1.25f}));
}

// One expert's logits are 3 too high. Until the load is even its bias falls by u a step, and the
// others, who share what it leaves, rise by u: the gap closes by 2u. It has to close by at most the
// largest difference that 3 makes to a score, so that difference over 2u bounds the number of
// steps.
TEST(BiasUpdate, ForcedImbalanceIsLevelledInThePredictedSteps) {
  const int64_t num_experts = 8, k = 2, rows = 1024;
  const float u = 0.001f;
  std::vector<float> logits = random_values(rows * num_experts, 165);
  double largest_gap = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const auto score = [](double z) { return std::sqrt(std::log1p(std::exp(z))); };
    float& hot = logits[row * num_experts + 3];
    largest_gap = std::max(largest_gap, score(hot + 3.0) - score(hot));
    hot += 3.0f;
  }
  const auto predicted =
      static_cast<int64_t>(std::ceil(largest_gap / (2 * static_cast<double>(u))));
  TestContext ctx(device::machine_isa(), 2);
  std::vector<float> bias(num_experts, 0.0f);
  const auto imbalance = [&](const Routed& r, std::vector<int64_t>& counts) {
    counts.assign(num_experts, 0);
    add_loads(r.ids, counts);
    return static_cast<double>(*std::max_element(counts.begin(), counts.end())) * num_experts /
           static_cast<double>(rows * k);
  };
  std::vector<int64_t> counts;
  EXPECT_GT(imbalance(run_route(ctx, logits, num_experts, k, bias.data()), counts), 3.0);
  int64_t steps = 0;
  for (; steps < predicted; ++steps) {
    const Routed r = run_route(ctx, logits, num_experts, k, bias.data());
    if (imbalance(r, counts) < 1.1) break;
    bias_update(counts, u, bias);
    if (steps % 50 != 0) continue;
    // The weights are those of the same choice without any bias.
    const Routed unbiased = run_route(ctx, logits, num_experts, k, nullptr, r.ids.data());
    expect_same_values(unbiased.weights, r.weights, "weights at step " + std::to_string(steps));
  }
  EXPECT_LT(imbalance(run_route(ctx, logits, num_experts, k, bias.data()), counts), 1.1);
  EXPECT_GT(steps, predicted / 2);  // and it does not happen by itself
  // It stays level.
  for (int64_t step = 0; step < 50; ++step) {
    EXPECT_LT(imbalance(run_route(ctx, logits, num_experts, k, bias.data()), counts), 1.1);
    bias_update(counts, u, bias);
  }
}

}  // namespace
}  // namespace cachalot::ops
