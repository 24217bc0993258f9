#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "engine/sampling_testing.h"

namespace cachalot::engine {
namespace {
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(std::mt19937& random, size_t n, double spread) {
  std::normal_distribution<double> normal(0, spread);
  std::vector<float> logits(n);
  // Coarse values, so that ties occur.
  for (float& logit : logits) logit = static_cast<float>(std::round(normal(random) * 8) / 8);
  return logits;
}

// The definition, step by step, on full arrays; weights and sums in long double. Logits are float64
// by definition: ties count.
std::map<int32_t, double> brute_force(const std::vector<float>& logits,
                                      const SamplingParams& params,
                                      const std::vector<int32_t>& prompt,
                                      const std::vector<int32_t>& output) {
  const int32_t n = static_cast<int32_t>(logits.size());
  std::vector<double> l(logits.begin(), logits.end());
  for (const auto& [id, bias] : params.logit_bias) l[id] += bias;
  for (int32_t id = 0; id < n; ++id) {
    const auto times = [&](const std::vector<int32_t>& ids) {
      return std::count(ids.begin(), ids.end(), id);
    };
    if (times(prompt) + times(output) > 0) {
      l[id] = l[id] > 0 ? l[id] / params.repetition_penalty : l[id] * params.repetition_penalty;
    }
    l[id] -= params.frequency_penalty * times(output) +
             (times(output) > 0 ? params.presence_penalty : 0.0);
  }
  std::vector<int32_t> order;
  for (int32_t id = 0; id < n; ++id) {
    if (std::isfinite(l[id])) order.push_back(id);
  }
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return l[a] > l[b]; });
  if (params.temperature == 0) return {{order[0], 1.0}};
  if (params.top_k > 0) order.resize(std::min<size_t>(order.size(), params.top_k));
  const auto weight = [&](int32_t id) {
    return std::exp((l[id] - l[order[0]]) / params.temperature);
  };
  long double total = 0;
  for (const int32_t id : order) total += weight(id);
  std::vector<int32_t> kept;
  long double before = 0;
  for (const int32_t id : order) {
    if (before < params.top_p * total || params.top_p == 1) kept.push_back(id);
    before += weight(id);
  }
  std::erase_if(kept, [&](int32_t id) { return weight(id) < params.min_p; });
  long double left = 0;
  for (const int32_t id : kept) left += weight(id);
  std::map<int32_t, double> result;
  for (const int32_t id : kept) result[id] = static_cast<double>(weight(id) / left);
  return result;
}

Distribution distribution_of(const std::vector<float>& logits, const SamplingParams& params,
                             const TokenHistory& history = {}) {
  Distribution out;
  const Status status = distribution(logits, params, history, out);
  EXPECT_TRUE(status.ok()) << status.to_string();
  return out;
}

void expect_equal(const Distribution& found, const std::map<int32_t, double>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  size_t i = 0;
  for (const auto& [id, probability] : expected) {
    ASSERT_EQ(found[i].id, id);
    // exp within 2 ulp, the exponent's rounding magnified by at most |x| <= 693, sums of n terms:
    // far below.
    ASSERT_NEAR(found[i].probability, probability, 1e-12 * probability + 1e-300);
    ++i;
  }
}

TEST(Sampler, EveryFilterKeepsWhatTheDefinitionKeeps) {
  std::mt19937 random(3);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int round = 0; round < 3000; ++round) {
    const size_t n = 1 + random() % 400;
    const std::vector<float> logits = random_logits(random, n, 0.25 * (1 + below(20)));
    SamplingParams params;
    params.temperature = below(10) == 0 ? 0.0 : 0.1 * (1 + below(25));
    // One filter alone, or several.
    const int which = below(8);
    if (which & 1) params.top_k = below(static_cast<int>(n) + 5);
    if (which & 2) params.top_p = (1 + below(1000)) / 1000.0;
    if (which & 4) params.min_p = below(4) == 0 ? 1.0 : below(1000) / 1000.0;
    std::vector<int32_t> prompt, output;
    TokenHistory history;
    if (below(2) == 0) {
      params.repetition_penalty = 0.5 + below(20) / 10.0;
      params.frequency_penalty = (below(21) - 10) / 8.0;
      params.presence_penalty = (below(21) - 10) / 8.0;
      for (int i = 0; i < 30; ++i) {
        prompt.push_back(below(static_cast<int>(n)));
        history.add_prompt(prompt.back());
        output.push_back(below(static_cast<int>(n)));
        history.add_output(output.back());
      }
    }
    if (below(2) == 0) {
      for (int i = 0; i < 5; ++i)
        params.logit_bias[below(static_cast<int>(n))] = below(41) / 4.0 - 5;
      if (n > 10) params.logit_bias[below(static_cast<int>(n))] = -kInf;
    }
    ASSERT_TRUE(validate(params, static_cast<int64_t>(n)).ok());
    expect_equal(distribution_of(logits, params, history),
                 brute_force(logits, params, prompt, output));
    ASSERT_FALSE(HasFatalFailure()) << "round " << round;
  }
}

TEST(Sampler, TopPOverManyEqualTokensTakesTheLowestIds) {
  const std::vector<float> flat(1000, 0.5f);
  SamplingParams params;
  params.top_p = 0.3;
  const Distribution kept = distribution_of(flat, params);
  ASSERT_EQ(kept.size(), 300u);
  for (int32_t i = 0; i < 300; ++i) EXPECT_EQ(kept[i].id, i);
  params.top_p = 1;
  params.top_k = 7;
  ASSERT_EQ(distribution_of(flat, params).size(), 7u);
  EXPECT_EQ(distribution_of(flat, params)[6].id, 6);
}

TEST(Sampler, TemperatureZeroIsTheLowestOfTheBest) {
  SamplingParams params;
  params.temperature = 0;
  EXPECT_EQ(distribution_of({1, 3, 2, 3, -kInf}, params)[0].id, 1);
  params.logit_bias[3] = 0.5;
  EXPECT_EQ(distribution_of({1, 3, 2, 3, -kInf}, params)[0].id, 3);
  params.logit_bias[4] = 100;
  EXPECT_EQ(distribution_of({1, 3, 2, 3, -kInf}, params)[0].id, 3);
}

TEST(Sampler, DrawsAreDistributedAsComputed) {
  std::mt19937 random(9);
  const std::vector<float> logits = random_logits(random, 60, 1.5);
  for (int variant = 0; variant < 5; ++variant) {
    SamplingParams params;
    params.seed = 17;
    if (variant == 1) params.temperature = 0.4;
    if (variant == 2) params.top_k = 9;
    if (variant == 3) params.top_p = 0.8, params.temperature = 1.7;
    if (variant == 4) params.min_p = 0.1;
    const std::map<int32_t, double> expected = brute_force(logits, params, {}, {});
    std::map<int32_t, int64_t> counts;
    Distribution scratch;
    for (int64_t position = 0; position < 200'000; ++position) {
      const SampledToken token = sample(logits, params, {}, position, scratch).value();
      ++counts[token.id];
      ASSERT_NEAR(token.logprob, std::log(expected.at(token.id)), 1e-11);
    }
    testing::expect_drawn_from(expected, counts);
  }
}

TEST(Sampler, ATokenIsAFunctionOfSeedAndPosition) {
  std::mt19937 random(2);
  const std::vector<float> logits = random_logits(random, 500, 1);
  SamplingParams params;
  params.seed = 5;
  Distribution scratch;
  std::vector<int32_t> forward, backward;
  for (int64_t i = 0; i < 100; ++i) forward.push_back(sample(logits, params, {}, i, scratch)->id);
  for (int64_t i = 99; i >= 0; --i) backward.push_back(sample(logits, params, {}, i, scratch)->id);
  std::reverse(backward.begin(), backward.end());
  EXPECT_EQ(forward, backward);
  params.seed = 6;
  std::vector<int32_t> other;
  for (int64_t i = 0; i < 100; ++i) other.push_back(sample(logits, params, {}, i, scratch)->id);
  EXPECT_NE(forward, other);
}

TEST(Sampler, ExtremeLogits) {
  const float huge = std::numeric_limits<float>::max();
  SamplingParams params;
  EXPECT_EQ(distribution_of({-huge, huge, 0}, params).size(), 1u);
  EXPECT_EQ(distribution_of({huge, huge}, params)[1].probability, 0.5);
  EXPECT_EQ(distribution_of({-kInf, -huge, -kInf}, params)[0].id, 1);
  params.temperature = 1e-300;
  EXPECT_EQ(distribution_of({1, 1.0001f, 1}, params).size(), 1u);
  params.temperature = 1e300;
  EXPECT_EQ(distribution_of({-huge, huge, 0, -kInf}, params).size(), 3u);
  EXPECT_NEAR(distribution_of({-huge, huge, 0}, params)[0].probability, 1 / 3.0, 1e-15);
  params.temperature = std::numeric_limits<double>::denorm_min();
  EXPECT_EQ(distribution_of({1, 2, 2}, params).size(), 2u);
}

TEST(Sampler, FaultyLogitsAreErrors) {
  Distribution out;
  SamplingParams params;
  for (const double temperature : {0.0, 1.0}) {
    params.temperature = temperature;
    const float nan = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(distribution(std::vector<float>{0, nan, 1}, params, {}, out).to_string(),
              "invalid_argument: logit 1: expected a finite number or -inf, found nan");
    EXPECT_FALSE(distribution(std::vector<float>{0, kInf}, params, {}, out).ok());
    EXPECT_FALSE(distribution(std::vector<float>{-kInf, -kInf}, params, {}, out).ok());
    EXPECT_FALSE(distribution(std::vector<float>{}, params, {}, out).ok());
    EXPECT_FALSE(sample(std::vector<float>{nan}, params, {}, 0, out).has_value());
    EXPECT_FALSE(model_logprob(std::vector<float>{0, nan}, 0).has_value());
  }
  params.logit_bias[0] = -kInf;
  EXPECT_FALSE(distribution(std::vector<float>{3}, params, {}, out).ok());
}

TEST(Sampler, ValidationNamesTheField) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto refused = [](const char* text, auto&& change) {
    SamplingParams params;
    change(params);
    const Status status = validate(params, 100);
    EXPECT_EQ(status.code(), StatusCode::invalid_argument) << text;
    EXPECT_EQ(status.message().rfind(text, 0), 0u) << status.message();
  };
  EXPECT_TRUE(validate({}, 100).ok());
  for (const double bad : {-0.1, nan, static_cast<double>(kInf)}) {
    refused("temperature: ", [&](SamplingParams& p) { p.temperature = bad; });
    refused("repetition_penalty: ", [&](SamplingParams& p) { p.repetition_penalty = bad; });
    refused("min_p: ", [&](SamplingParams& p) { p.min_p = bad; });
    refused("top_p: ", [&](SamplingParams& p) { p.top_p = bad; });
  }
  refused("top_p: expected above 0 and at most 1, found 0", [](SamplingParams& p) { p.top_p = 0; });
  refused("top_p: ", [](SamplingParams& p) { p.top_p = 1.001; });
  refused("min_p: ", [](SamplingParams& p) { p.min_p = 1.001; });
  refused("repetition_penalty: ", [](SamplingParams& p) { p.repetition_penalty = 0; });
  refused("frequency_penalty: ", [&](SamplingParams& p) { p.frequency_penalty = nan; });
  refused("presence_penalty: ", [](SamplingParams& p) { p.presence_penalty = 1e7; });
  refused("top_k: ", [](SamplingParams& p) { p.top_k = -1; });
  refused("logit_bias: expected token ids of 0 to 99, found 100",
          [](SamplingParams& p) { p.logit_bias[100] = 1; });
  refused("logit_bias: ", [](SamplingParams& p) { p.logit_bias[-1] = 1; });
  refused("logit_bias of token 5: ", [&](SamplingParams& p) { p.logit_bias[5] = nan; });
  refused("logit_bias of token 5: ", [](SamplingParams& p) { p.logit_bias[5] = kInf; });
}

TEST(Sampler, ModelLogprobIsLogSoftmax) {
  const std::vector<float> logits = {1, 2, 3, -kInf};
  const double total = std::exp(1.0) + std::exp(2.0) + std::exp(3.0);
  for (int32_t id = 0; id < 3; ++id) {
    EXPECT_NEAR(model_logprob(logits, id).value(), logits[id] - std::log(total), 1e-14);
  }
  EXPECT_EQ(model_logprob(logits, 3).value(), -kInf);
}

TEST(Sampler, ExpIsWithinTwoUnitsInTheLastPlace) {
  std::mt19937_64 random(4);
  std::uniform_real_distribution<double> exponent(-50, 9.43);
  for (int i = 0; i < 1'000'000; ++i) {
    const double x = -std::exp2(exponent(random));
    if (x < -693) continue;
    const long double exact = std::exp(static_cast<long double>(x));
    const double ulp = std::nextafter(static_cast<double>(exact), 2.0) - static_cast<double>(exact);
    ASSERT_LE(std::abs(static_cast<double>(exp_nonpositive(x) - exact)), 2 * ulp) << x;
  }
  EXPECT_EQ(exp_nonpositive(0), 1.0);
  EXPECT_EQ(exp_nonpositive(-0.0), 1.0);
  EXPECT_EQ(exp_nonpositive(-693.5), 0.0);
  EXPECT_EQ(exp_nonpositive(-kInf), 0.0);
}

}  // namespace
}  // namespace cachalot::engine
