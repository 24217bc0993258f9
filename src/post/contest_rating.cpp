#include "post/contest_rating.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace cachalot::post {
namespace {

double expected_wins(double rating, std::span<const Human> humans) {
  double sum = 0;
  for (const Human& human : humans) sum += 1 / (1 + std::pow(10.0, (rating - human.rating) / 400));
  return sum;
}

}  // namespace

Result<ProblemLaw> problem_law(int64_t n, int64_t c, int64_t draws) {
  if (n < 1 || c < 0 || c > n || draws < 1 || draws > n) {
    return invalid_argument(fmt::format(
        "law of a problem: expected 0 <= c <= n and 1 <= draws <= n, found n = {}, c = {}, draws = "
        "{}",
        n, c, draws));
  }
  ProblemLaw law;
  double all_failed = 1;  // C(n - c, j) / C(n, j)
  for (int64_t j = 0; j < draws; ++j) {
    const auto left = static_cast<double>(n - j);
    law.first_success_at.push_back(all_failed * static_cast<double>(c) / left);
    all_failed *= static_cast<double>(std::max<int64_t>(n - c - j, 0)) / left;
  }
  law.no_success = all_failed;
  return law;
}

std::vector<std::optional<double>> median_scores(std::span<const Solver> solvers, int64_t draws) {
  std::vector<std::optional<double>> medians;
  for (int64_t fails = 0; fails < draws; ++fails) {
    std::vector<double> scores;
    for (const Solver& solver : solvers) {
      if (solver.fails == fails) scores.push_back(solver.score);
    }
    std::sort(scores.begin(), scores.end());
    const size_t n = scores.size();
    medians.push_back(n == 0 ? std::nullopt
                             : std::optional((scores[(n - 1) / 2] + scores[n / 2]) / 2));
  }
  return medians;
}

Result<std::vector<TotalShare>> total_law(std::span<const Problem> problems, int64_t draws) {
  std::map<double, double> law = {{0.0, 1.0}};
  for (const Problem& problem : problems) {
    CACHALOT_ASSIGN_OR_RETURN(const ProblemLaw own, problem_law(problem.n, problem.c, draws));
    if (problem.score_after_fails.size() < own.first_success_at.size()) {
      return invalid_argument(fmt::format("scores after failed attempts: expected {}, found {}",
                                          draws, problem.score_after_fails.size()));
    }
    std::map<double, double> next;
    for (const auto& [total, probability] : law) {
      if (own.no_success > 0) next[total] += probability * own.no_success;
      for (size_t j = 0; j < own.first_success_at.size(); ++j) {
        if (own.first_success_at[j] == 0) continue;
        next[total + problem.score_after_fails[j]] += probability * own.first_success_at[j];
      }
    }
    law = std::move(next);
  }
  std::vector<TotalShare> shares;
  for (const auto& [total, probability] : law) shares.push_back({total, probability});
  return shares;
}

double rank_of(double total, std::span<const Human> humans, RankTies ties) {
  double rank = 1;
  for (const Human& human : humans) {
    if (human.total > total) rank += 1;
    if (human.total == total && ties == RankTies::middle) rank += 0.5;
  }
  return rank;
}

Result<double> rating_of_rank(double rank, std::span<const Human> humans, ExpectedPlace place) {
  const double wins = place == ExpectedPlace::one_plus ? rank - 1 : rank;
  if (!(wins > 0 && wins < static_cast<double>(humans.size()))) {
    return invalid_argument(fmt::format(
        "rating of rank {} among {} humans: expected an expected place strictly between 0 and "
        "their number, found {}",
        rank, humans.size(), wins));
  }
  double low = humans[0].rating, high = low;
  for (double step = 400; expected_wins(low, humans) < wins; step *= 2) low -= step;
  for (double step = 400; expected_wins(high, humans) > wins; step *= 2) high += step;
  // Halved until no double lies between.
  for (double middle = (low + high) / 2; middle > low && middle < high; middle = (low + high) / 2)
    (expected_wins(middle, humans) > wins ? low : high) = middle;
  return low;
}

Result<double> expected_rating(std::span<const TotalShare> law, std::span<const Human> humans,
                               const RatingRule& rule) {
  std::map<double, double> by_rank;  // few ranks, many totals
  for (const TotalShare& share : law)
    by_rank[rank_of(share.total, humans, rule.ties)] += share.probability;
  double expectation = 0;
  for (const auto& [rank, probability] : by_rank) {
    CACHALOT_ASSIGN_OR_RETURN(const double rating, rating_of_rank(rank, humans, rule.place));
    expectation += probability * rating;
  }
  return expectation;
}

}  // namespace cachalot::post
