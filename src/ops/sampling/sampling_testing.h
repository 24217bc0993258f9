// For tests of sampling: how far counts may be from probabilities.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <map>

namespace cachalot::ops::testing {

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
