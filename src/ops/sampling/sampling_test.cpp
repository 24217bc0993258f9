#include "ops/sampling/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "ops/elementwise/kernel_test.h"
#include "ops/sampling/exp_nonpositive.h"
#include "ops/sampling/sampling_impl.h"
#include "ops/sampling/sampling_testing.h"

namespace cachalot::ops {
namespace {

using testing::expect_same_row;
using testing::kTopStride;
using testing::Outcome;
using testing::outcome_of;
using testing::random_logits;
using testing::random_request;
using testing::Request;

// The definition, step by step, on full arrays; weights and sums in long double. Logits are float64
// by definition: ties count.
std::map<int32_t, double> brute_force(const std::vector<float>& logits, const Request& params) {
  const int32_t n = static_cast<int32_t>(logits.size());
  std::vector<double> l(logits.begin(), logits.end());
  for (const auto& [id, bias] : params.logit_bias) l[id] += bias;
  for (int32_t id = 0; id < n; ++id) {
    const auto times = [&](const std::vector<int32_t>& ids) {
      return std::count(ids.begin(), ids.end(), id);
    };
    if (times(params.prompt) + times(params.output) > 0) {
      l[id] = l[id] > 0 ? l[id] / params.repetition_penalty : l[id] * params.repetition_penalty;
    }
    l[id] -= params.frequency_penalty * times(params.output) +
             (times(params.output) > 0 ? params.presence_penalty : 0.0);
    if (!params.id_set.empty() && !((params.id_set[id / 64] >> (id % 64)) & 1)) l[id] = -kInf;
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

struct TokenProbability {
  int32_t id;
  double probability;
};
using Distribution = std::vector<TokenProbability>;

// What can be drawn; both versions have the same bits.
Distribution distribution_of(const std::vector<float>& logits, Request request) {
  std::vector<TokenWeight> found[2];
  const SamplingRow row = request.row();
  int which = 0;
  for (SampleRowKernel* kernel : {sample_row_ref, sample_row_cpu}) {
    std::vector<TokenWeight>& weights = found[which++];
    weights.resize(logits.size());
    const SampledToken token = kernel({logits.data(), static_cast<int64_t>(logits.size()), row,
                                       nullptr, nullptr, weights.data()});
    EXPECT_EQ(token.fault, SamplingFault::none);
    weights.resize(token.num_allowed);
  }
  EXPECT_TRUE(std::equal(found[0].begin(), found[0].end(), found[1].begin(), found[1].end(),
                         [](const TokenWeight& a, const TokenWeight& b) {
                           return a.id == b.id && a.weight == b.weight;
                         }));
  long double total = 0;
  for (const TokenWeight& token : found[1]) total += token.weight;
  Distribution distribution;
  for (const TokenWeight& token : found[1])
    distribution.push_back({token.id, static_cast<double>(token.weight / total)});
  return distribution;
}

SampledToken sample_one(const std::vector<float>& logits, Request request) {
  TestContext context(device::machine_isas().back());
  const SamplingRow row = request.row();
  const auto n = static_cast<int64_t>(logits.size());
  SampledToken token;
  sample(context, {logits.data(), n, 1, n, &row, &token});
  return token;
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

TEST(Sample, EveryFilterKeepsWhatTheDefinitionKeeps) {
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    const size_t n = 1 + random() % 400;
    const std::vector<float> logits =
        random_logits(random, n, 0.25 * (1 + static_cast<int>(random() % 20)));
    const Request request = random_request(random, n);
    expect_equal(distribution_of(logits, request), brute_force(logits, request));
    ASSERT_FALSE(HasFatalFailure()) << "round " << round;
  }
}

TEST(Sample, TopPOverManyEqualTokensTakesTheLowestIds) {
  const std::vector<float> flat(1000, 0.5f);
  Request params;
  params.top_p = 0.3;
  const Distribution kept = distribution_of(flat, params);
  ASSERT_EQ(kept.size(), 300u);
  for (int32_t i = 0; i < 300; ++i) EXPECT_EQ(kept[i].id, i);
  params.top_p = 1;
  params.top_k = 7;
  ASSERT_EQ(distribution_of(flat, params).size(), 7u);
  EXPECT_EQ(distribution_of(flat, params)[6].id, 6);
}

TEST(Sample, TemperatureZeroIsTheLowestOfTheBest) {
  Request params;
  params.temperature = 0;
  EXPECT_EQ(distribution_of({1, 3, 2, 3, -kInf}, params)[0].id, 1);
  params.logit_bias[3] = 0.5;
  EXPECT_EQ(distribution_of({1, 3, 2, 3, -kInf}, params)[0].id, 3);
  params.logit_bias[4] = 100;
  EXPECT_EQ(distribution_of({1, 3, 2, 3, -kInf}, params)[0].id, 3);
  params.id_set = {0b10101};
  EXPECT_EQ(distribution_of({1, 3, 2, 3, -kInf}, params)[0].id, 2);
}

TEST(Sample, TemperatureZeroLooksThroughAllRunsOfIds) {
  Request params;
  params.temperature = 0;
  for (const int32_t n : {1, 17, 256, 257, 1000}) {
    for (const int32_t place : {0, n / 3, n / 2, n - 1}) {
      std::vector<float> logits(static_cast<size_t>(n), -1.0f);
      logits[0] = 1;
      logits[static_cast<size_t>(place)] = logits.back() = 2;
      EXPECT_EQ(distribution_of(logits, params)[0].id, place) << n;
      logits.back() = std::numeric_limits<float>::quiet_NaN();
      const SampledToken token = sample_one(logits, params);
      EXPECT_EQ(token.fault, SamplingFault::not_finite);
      EXPECT_EQ(token.faulty_id, n - 1);
    }
  }
}

TEST(Sample, DrawsAreDistributedAsComputed) {
  std::mt19937 random(9);
  const std::vector<float> logits = random_logits(random, 60, 1.5);
  TestContext context(device::machine_isas().back(), 2);
  constexpr int64_t kRows = 1000;
  for (int variant = 0; variant < 5; ++variant) {
    Request params;
    params.seed = 17;
    if (variant == 1) params.temperature = 0.4;
    if (variant == 2) params.top_k = 9;
    if (variant == 3) params.top_p = 0.8, params.temperature = 1.7;
    if (variant == 4) params.min_p = 0.1;
    const std::map<int32_t, double> expected = brute_force(logits, params);
    std::map<int32_t, int64_t> counts;
    std::vector<SamplingRow> rows(kRows, params.row());
    std::vector<SampledToken> tokens(kRows);
    for (int64_t first = 0; first < 200'000; first += kRows) {
      for (int64_t i = 0; i < kRows; ++i) rows[i].position = first + i;
      // All rows read the same logits.
      sample(context, {.logits = logits.data(),
                       .logits_stride = 0,
                       .rows = kRows,
                       .vocab_size = 60,
                       .params = rows.data(),
                       .tokens = tokens.data()});
      for (const SampledToken& token : tokens) {
        ++counts[token.id];
        ASSERT_NEAR(token.logprob, std::log(expected.at(token.id)), 1e-11);
      }
    }
    testing::expect_drawn_from(expected, counts);
  }
}

TEST(Sample, ATokenIsAFunctionOfSeedAndPosition) {
  std::mt19937 random(2);
  const std::vector<float> logits = random_logits(random, 500, 1);
  Request params;
  const auto drawn = [&](int64_t position) {
    params.position = position;
    return sample_one(logits, params).id;
  };
  params.seed = 5;
  std::vector<int32_t> forward, backward;
  for (int64_t i = 0; i < 100; ++i) forward.push_back(drawn(i));
  for (int64_t i = 99; i >= 0; --i) backward.push_back(drawn(i));
  std::reverse(backward.begin(), backward.end());
  EXPECT_EQ(forward, backward);
  params.seed = 6;
  std::vector<int32_t> other;
  for (int64_t i = 0; i < 100; ++i) other.push_back(drawn(i));
  EXPECT_NE(forward, other);
}

TEST(Sample, ExtremeLogits) {
  const float huge = std::numeric_limits<float>::max();
  Request params;
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

// Every output of a row has the bits that it has alone, by the definition: in any batch, any order,
// with neighbours that are faulty, on any instruction set and thread count.
TEST(Sample, ARowHasItsBitsAloneInAnyBatchAndForAnyThreads) {
  std::mt19937 random(21);
  for (const int64_t n : {1, 5, 64, 65, 700}) {
    constexpr int64_t kRows = 23;
    std::vector<float> logits;
    std::vector<Request> requests;
    for (int64_t row = 0; row < kRows; ++row) {
      std::vector<float> of_row = random_logits(random, static_cast<size_t>(n), 2);
      if (row == 3) of_row.back() = std::numeric_limits<float>::quiet_NaN();
      if (row == 4) of_row.assign(of_row.size(), -kInf);
      if (row == 5) of_row[0] = -kInf, of_row.back() = 1;
      // Greedy rows below: the last of many, none, two of the best, one that is no number.
      if (row == 6) of_row.back() = std::numeric_limits<float>::quiet_NaN();
      if (row == 7) of_row.assign(of_row.size(), -kInf);
      if (row == 8) of_row[of_row.size() / 2] = of_row.back() = 100;
      if (row == 9) of_row[of_row.size() / 2] = kInf;
      logits.insert(logits.end(), of_row.begin(), of_row.end());
      Request request = random_request(random, static_cast<size_t>(n));
      if (row >= 6 && row < 12) request = Request{}, request.temperature = 0;
      request.wants_model_logprob = random() % 2 == 0;
      request.num_top = static_cast<int64_t>(random() % (kTopStride + 1));
      requests.push_back(std::move(request));
    }
    std::vector<SamplingRow> rows;
    for (Request& request : requests) rows.push_back(request.row());
    std::vector<Outcome> alone;
    for (int64_t row = 0; row < kRows; ++row) {
      TestContext reference(device::Isa::reference);
      alone.push_back(outcome_of(
          *reference, {logits.begin() + row * n, logits.begin() + (row + 1) * n}, {rows[row]}));
    }
    EXPECT_EQ(alone[3].tokens[0].fault, SamplingFault::not_finite);
    EXPECT_EQ(alone[4].tokens[0].fault, SamplingFault::nothing_to_choose);
    EXPECT_EQ(alone[8].tokens[0].id, n / 2);
    for_each_context([&](device::ExecContext& ctx, const std::string& name) {
      const Outcome together = outcome_of(ctx, logits, rows);
      for (int64_t row = 0; row < kRows; ++row)
        expect_same_row(alone[row], 0, together, row, name + ", row " + std::to_string(row));
      expect_drawn_alike(
          ctx, logits.data(), n, rows, together,
          [](const int32_t* ids, int64_t count) { return std::vector(ids, ids + count); });
      std::vector<float> back_logits;
      for (int64_t row = kRows - 1; row >= 0; --row) {
        back_logits.insert(back_logits.end(), logits.begin() + row * n,
                           logits.begin() + (row + 1) * n);
      }
      const Outcome backward = outcome_of(ctx, back_logits, {rows.rbegin(), rows.rend()});
      for (int64_t row = 0; row < kRows; ++row) {
        expect_same_row(alone[row], 0, backward, kRows - 1 - row,
                        name + ", backward, row " + std::to_string(row));
      }
    });
  }
}

// The allowed set is the ids of the distribution, and what is drawn is one of them.
TEST(Sample, TheAllowedSetIsWhatCanBeDrawn) {
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    const size_t n = 1 + random() % 300;
    const std::vector<float> logits = random_logits(random, n, 2);
    Request request = random_request(random, n);
    const std::map<int32_t, double> expected = brute_force(logits, request);
    TestContext context(device::machine_isas().back());
    const Outcome outcome = outcome_of(*context, logits, {request.row()});
    EXPECT_EQ(outcome.tokens[0].num_allowed, static_cast<int32_t>(expected.size()));
    for (int32_t id = 0; id < static_cast<int32_t>(n); ++id)
      EXPECT_EQ(id_set_has(outcome.allowed.data(), id), expected.contains(id)) << id;
    EXPECT_TRUE(expected.contains(outcome.tokens[0].id));
  }
}

// Tokens of the step before a row's own count as if they had been written.
TEST(Sample, DraftedTokensCountAsOutput) {
  std::mt19937 random(6);
  const std::vector<float> logits = random_logits(random, 50, 2);
  Request request;
  request.repetition_penalty = 1.5;
  request.frequency_penalty = 0.25;
  request.presence_penalty = 0.5;
  request.prompt = {1, 2, 2};
  request.output = {3, 2, 3, 4, 4, 5, 2};
  const std::map<int32_t, double> expected = brute_force(logits, request);
  for (request.num_drafted = 0; request.num_drafted <= request.output.size(); ++request.num_drafted)
    expect_equal(distribution_of(logits, request), expected);
}

TEST(Sample, FaultyLogitsAreTheRowsFault) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Request params;
  for (const double temperature : {0.0, 1.0}) {
    params.temperature = temperature;
    EXPECT_EQ(sample_one({0, nan, nan}, params).fault, SamplingFault::not_finite);
    EXPECT_EQ(sample_one({0, nan, nan}, params).faulty_id, 1);
    EXPECT_EQ(sample_one({0, nan, nan}, params).id, -1);
    EXPECT_EQ(sample_one({0, kInf}, params).faulty_id, 1);
    EXPECT_EQ(sample_one({-kInf, -kInf}, params).fault, SamplingFault::nothing_to_choose);
    EXPECT_EQ(sample_one({}, params).fault, SamplingFault::nothing_to_choose);
  }
  params.logit_bias[0] = -kInf;
  EXPECT_EQ(sample_one({3}, params).fault, SamplingFault::nothing_to_choose);
  params.logit_bias.clear();
  params.id_set = {0};
  EXPECT_EQ(sample_one({3}, params).fault, SamplingFault::nothing_to_choose);
}

// Of the logits as the model gave them, whatever the parameters do to them.
TEST(Sample, ModelLogprobIsLogSoftmax) {
  const std::vector<float> logits = {1, 2, 3, -kInf};
  const double total = std::exp(1.0) + std::exp(2.0) + std::exp(3.0);
  Request params;
  params.wants_model_logprob = true;
  params.temperature = 0.1;
  for (int32_t id = 0; id < 3; ++id) {
    params.logit_bias = {{id, 1000}};
    EXPECT_EQ(sample_one(logits, params).id, id);
    EXPECT_NEAR(sample_one(logits, params).model_logprob, logits[id] - std::log(total), 1e-14);
    EXPECT_EQ(sample_one(logits, params).logprob, 0);
  }
}

TEST(Sample, TheTopAreTheLargestOfTheModel) {
  const std::vector<float> logits = {1, 3, -kInf, 3, 2};
  const double total = std::exp(1.0) + 2 * std::exp(3.0) + std::exp(2.0);
  Request params;
  params.logit_bias[0] = 100;
  params.num_top = kTopStride;
  TestContext context(device::machine_isas().back());
  const Outcome outcome = outcome_of(*context, logits, {params.row()});
  const int32_t ids[] = {1, 3, 4, 0, 2, -1, -1};
  for (int i = 0; i < kTopStride; ++i) {
    EXPECT_EQ(outcome.top[i].id, ids[i]);
    const double expected = ids[i] < 0 ? -kInf : logits[ids[i]] - std::log(total);
    if (std::isfinite(expected)) {
      EXPECT_NEAR(outcome.top[i].logprob, expected, 1e-14);
    } else {
      EXPECT_EQ(outcome.top[i].logprob, -kInf);
    }
  }
}

TEST(Sample, ExpIsWithinTwoUnitsInTheLastPlace) {
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
}  // namespace cachalot::ops
