// For tests of sampling: rows with any parameters, whether what came of them has the same bits, and
// how far counts may be from probabilities.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "ops/sampling/sampling.h"

namespace cachalot::ops::testing {

inline std::vector<float> random_logits(std::mt19937& random, size_t n, double spread) {
  std::normal_distribution<double> normal(0, spread);
  std::vector<float> logits(n);
  // Coarse values, so that ties occur.
  for (float& logit : logits) logit = static_cast<float>(std::round(normal(random) * 8) / 8);
  return logits;
}

// A row's parameters with the arrays they point to.
struct Request : SamplingRow {
  std::map<int32_t, double> logit_bias;
  std::vector<int32_t> prompt, output;
  size_t num_drafted = 0;  // of the output, at its end
  std::vector<uint64_t> id_set;

  SamplingRow row() {
    SamplingRow row = *this;
    bias_array_.clear();
    for (const auto& [id, value] : logit_bias) bias_array_.push_back({id, value});
    std::map<int32_t, TokenCount> counted;
    for (const int32_t id : prompt)
      ++counted.try_emplace(id, TokenCount{id, 0, 0}).first->second.prompt;
    const std::span known = std::span(output).first(output.size() - num_drafted);
    for (const int32_t id : known)
      ++counted.try_emplace(id, TokenCount{id, 0, 0}).first->second.output;
    count_array_.clear();
    for (const auto& [id, count] : counted) count_array_.push_back(count);
    row.biases = bias_array_;
    row.counts = count_array_;
    row.drafted = std::span(output).last(num_drafted);
    row.mask = id_set.empty() ? nullptr : id_set.data();
    return row;
  }

 private:
  std::vector<TokenBias> bias_array_;
  std::vector<TokenCount> count_array_;
};

// Any filters, penalties, biases and masks, for a vocabulary of n.
inline Request random_request(std::mt19937& random, size_t n) {
  const auto below = [&](int m) { return static_cast<int>(random() % static_cast<unsigned>(m)); };
  const auto any_id = [&] { return below(static_cast<int>(n)); };
  Request request;
  request.temperature = below(10) == 0 ? 0.0 : 0.1 * (1 + below(25));
  // One filter alone, or several.
  const int which = below(8);
  if (which & 1) request.top_k = below(static_cast<int>(n) + 5);
  if (which & 2) request.top_p = (1 + below(1000)) / 1000.0;
  if (which & 4) request.min_p = below(4) == 0 ? 1.0 : below(1000) / 1000.0;
  if (below(2) == 0) {
    request.repetition_penalty = 0.5 + below(20) / 10.0;
    request.frequency_penalty = (below(21) - 10) / 8.0;
    request.presence_penalty = (below(21) - 10) / 8.0;
    for (int i = 0; i < 30; ++i) {
      request.prompt.push_back(any_id());
      request.output.push_back(any_id());
    }
    request.num_drafted = static_cast<size_t>(below(5));
  }
  if (below(2) == 0) {
    for (int i = 0; i < 5; ++i) request.logit_bias[any_id()] = below(41) / 4.0 - 5;
    if (n > 10) request.logit_bias[any_id()] = -std::numeric_limits<double>::infinity();
  }
  if (below(2) == 0) {
    request.id_set.resize(static_cast<size_t>(id_set_words(static_cast<int64_t>(n))));
    for (uint64_t& word : request.id_set) word = random() | (uint64_t{random()} << 32);
    // One of each word at least, which no bias bans.
    const int32_t id = any_id();
    request.id_set[id / 64] |= uint64_t{1} << (id % 64);
    request.logit_bias[id] = 0.5;
  }
  request.seed = random();
  request.position = below(1000);
  return request;
}

// What all rows of a call come to.
struct Outcome {
  std::vector<SampledToken> tokens;
  std::vector<TokenLogprob> top;
  std::vector<uint64_t> allowed;
};

inline constexpr int64_t kTopStride = 7;

// logits: where ctx reads them, [rows, n].
inline Outcome outcome_of(device::ExecContext& ctx, const float* logits, int64_t n,
                          const std::vector<SamplingRow>& rows) {
  Outcome outcome{std::vector<SampledToken>(rows.size()),
                  std::vector<TokenLogprob>(rows.size() * kTopStride, {-7, 7.0}),
                  std::vector<uint64_t>(rows.size() * static_cast<size_t>(id_set_words(n)), 7)};
  sample(ctx, {logits, n, static_cast<int64_t>(rows.size()), n, rows.data(), outcome.tokens.data(),
               outcome.top.data(), kTopStride, outcome.allowed.data()});
  return outcome;
}
inline Outcome outcome_of(device::ExecContext& ctx, const std::vector<float>& logits,
                          const std::vector<SamplingRow>& rows) {
  return outcome_of(ctx, logits.data(), static_cast<int64_t>(logits.size() / rows.size()), rows);
}

inline void expect_same_token(const SampledToken& a, const SampledToken& b,
                              const std::string& what) {
  EXPECT_EQ(a.id, b.id) << what;
  EXPECT_EQ(a.fault, b.fault) << what;
  EXPECT_EQ(a.faulty_id, b.faulty_id) << what;
  EXPECT_EQ(a.num_allowed, b.num_allowed) << what;
  EXPECT_EQ(std::bit_cast<uint64_t>(a.logprob), std::bit_cast<uint64_t>(b.logprob)) << what;
  EXPECT_EQ(std::bit_cast<uint64_t>(a.model_logprob), std::bit_cast<uint64_t>(b.model_logprob))
      << what;
}

// A Drawing of the rows gives what sample() gave. read: count ids of the context's memory.
template <typename Read>
void expect_drawn_alike(device::ExecContext& ctx, const float* logits, int64_t n,
                        std::vector<SamplingRow> rows, const Outcome& expected, const Read& read) {
  for (SamplingRow& row : rows) row.num_top = 0;
  Drawing drawing;
  for (size_t first = 0; first < rows.size(); first += Drawing::kMaxRows) {
    const auto count = std::min<size_t>(Drawing::kMaxRows, rows.size() - first);
    drawing.start(ctx, {logits + static_cast<int64_t>(first) * n, n, static_cast<int64_t>(count), n,
                        rows.data() + first, nullptr});
    const std::vector<int32_t> ids = read(drawing.ids(), static_cast<int64_t>(count));
    std::vector<SampledToken> tokens(count);
    drawing.finish(ctx, tokens);
    for (size_t i = 0; i < count; ++i) {
      const SampledToken& token = expected.tokens[first + i];
      expect_same_token(token, tokens[i], "drawn, row " + std::to_string(first + i));
      EXPECT_EQ(ids[i], std::max(token.id, 0));
    }
  }
}

inline void expect_same_row(const Outcome& expected, int64_t expected_row, const Outcome& found,
                            int64_t row, const std::string& what) {
  const SampledToken& a = expected.tokens[expected_row];
  expect_same_token(a, found.tokens[row], what);
  if (a.fault != SamplingFault::none) return;
  for (int64_t i = 0; i < kTopStride; ++i) {
    const TokenLogprob& one = expected.top[expected_row * kTopStride + i];
    const TokenLogprob& other = found.top[row * kTopStride + i];
    EXPECT_EQ(one.id, other.id) << what << ": place " << i;
    EXPECT_EQ(std::bit_cast<uint64_t>(one.logprob), std::bit_cast<uint64_t>(other.logprob)) << what;
  }
  const auto words = expected.allowed.size() / expected.tokens.size();
  for (size_t i = 0; i < words; ++i) {
    EXPECT_EQ(expected.allowed[expected_row * words + i], found.allowed[row * words + i]) << what;
  }
}

// Pearson's statistic of counts against exact probabilities, and the value it exceeds with
// probability 1e-6 if the counts are drawn from them: the chi-square quantile, as Wilson and
// Hilferty approximate it (z = 4.7534). Cells with fewer than 10 expected draws are joined. An
// outcome of probability 0 that occurred fails at once.
template <typename Outcome>
void expect_drawn_from(const std::map<Outcome, double>& probabilities,
                       const std::map<Outcome, int64_t>& counts) {
  int64_t num_draws = 0;
  for (const auto& [outcome, count] : counts) {
    num_draws += count;
    const auto found = probabilities.find(outcome);
    ASSERT_TRUE(found != probabilities.end() && found->second > 0)
        << "an impossible outcome was drawn";
  }
  double statistic = 0, rare_expected = 0, rare_count = 0;
  int64_t cells = 0;
  const auto add = [&](double expected, double count) {
    statistic += (count - expected) * (count - expected) / expected;
    ++cells;
  };
  for (const auto& [outcome, probability] : probabilities) {
    const double expected = probability * static_cast<double>(num_draws);
    const auto found = counts.find(outcome);
    const double count = found == counts.end() ? 0.0 : static_cast<double>(found->second);
    if (expected >= 10) {
      add(expected, count);
    } else {
      rare_expected += expected;
      rare_count += count;
    }
  }
  if (rare_expected >= 10) add(rare_expected, rare_count);
  if (cells < 2) return;
  const double k = static_cast<double>(cells - 1);
  const double root = 1 - 2 / (9 * k) + 4.7534 * std::sqrt(2 / (9 * k));
  EXPECT_LE(statistic, k * root * root * root)
      << "chi-square with " << cells - 1 << " degrees of freedom";
}

}  // namespace cachalot::ops::testing
