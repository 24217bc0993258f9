// The rating of a model in programming contests, as an expectation over which of its answers are
// handed in and in which order.
// Source  reference/post-training 10.1, 15. A problem has n answers of the model, c of them
//         correct; `draws` are taken without replacement, in random order, until one is right. That
//         scores what humans scored at the median after as many failed attempts. The total of a
//         contest gives a rank among humans, the rank a rating.
//         P(first success at draw j) = C(n - c, j - 1) / C(n, j - 1) * c / (n - j + 1).
// Errors  invalid_argument, with the value.
// Threads  any.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"

namespace cachalot::post {

struct ProblemLaw {
  std::vector<double> first_success_at;  // [draws]
  double no_success = 0;
};
Result<ProblemLaw> problem_law(int64_t n, int64_t c, int64_t draws);

struct Solver {
  int64_t fails;
  double score;
};
// Medians of the scores by number of failed attempts below `draws`; of an even count the mean of
// the middle two; nothing where nobody failed so often.
std::vector<std::optional<double>> median_scores(std::span<const Solver> solvers, int64_t draws);

struct Problem {
  int64_t n, c;
  std::vector<double> score_after_fails;  // at least as many as draws
};
struct TotalShare {
  double total;
  double probability;
};
// The exact law of a contest's total: totals ascending, each once, those of probability 0 left out.
Result<std::vector<TotalShare>> total_law(std::span<const Problem> problems, int64_t draws);

struct Human {
  double total;
  double rating;
};
enum class RankTies { best, middle };        // 1 + humans strictly above; plus half of those level
enum class ExpectedPlace { sum, one_plus };  // what equals the rank: S, or 1 + S
struct RatingRule {
  RankTies ties = RankTies::best;
  ExpectedPlace place = ExpectedPlace::sum;
};

double rank_of(double total, std::span<const Human> humans, RankTies ties);
// The R with S(R) = sum_i 1 / (1 + 10^((R - r_i) / 400)) = rank (or rank - 1).
// Errors  also a rank that no finite R has: S lies strictly between 0 and the number of humans.
Result<double> rating_of_rank(double rank, std::span<const Human> humans, ExpectedPlace place);
Result<double> expected_rating(std::span<const TotalShare> law, std::span<const Human> humans,
                               const RatingRule& rule);

}  // namespace cachalot::post
