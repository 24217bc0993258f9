#include "post/majority_vote.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <vector>

namespace cachalot::post {
namespace {

using Positions = std::vector<size_t>;  // of one answer, ascending

class Binomials {
 public:
  explicit Binomials(size_t n) {
    for (size_t i = 0; i <= n; ++i) {
      std::vector<double>& row = rows_.emplace_back(i + 1, 1.0);
      for (size_t j = 1; j < i; ++j) row[j] = rows_[i - 1][j - 1] + rows_[i - 1][j];
    }
  }
  double operator()(size_t n, size_t k) const { return k > n ? 0.0 : rows_[n][k]; }

 private:
  std::vector<std::vector<double>> rows_;
};

// ways[tied][votes] of the answers other than the truth.
using Ways = std::vector<std::vector<double>>;

// Counts how `votes` others' votes fall so that no answer has more than `most`, and how many
// answers have just as many. Those that have must have all of them after position `after`.
Ways other_votes(const std::vector<Positions>& others, size_t votes, size_t most, size_t after,
                 const Binomials& binomial) {
  Ways ways(1, std::vector<double>(votes + 1));
  ways[0][0] = 1;
  for (const Positions& answer : others) {
    const auto later =
        static_cast<size_t>(answer.end() - std::lower_bound(answer.begin(), answer.end(), after));
    Ways next(ways.size() + 1, std::vector<double>(votes + 1));
    for (size_t tied = 0; tied < ways.size(); ++tied) {
      for (size_t before = 0; before <= votes; ++before) {
        if (ways[tied][before] == 0) continue;
        for (size_t own = 0; own < most && before + own <= votes; ++own)
          next[tied][before + own] += ways[tied][before] * binomial(answer.size(), own);
        if (before + most <= votes)
          next[tied + 1][before + most] += ways[tied][before] * binomial(later, most);
      }
    }
    // No more answers can be tied than have room for `most` votes each.
    next.resize(std::min(next.size(), votes / most + 1));
    ways = std::move(next);
  }
  return ways;
}

}  // namespace

Majority majority_vote(std::span<const std::string> answers) {
  std::map<std::string_view, int64_t> votes;
  int64_t most = 0;
  for (const std::string& answer : answers) most = std::max(most, ++votes[answer]);
  Majority result;
  for (const auto& [answer, count] : votes) result.tied += count == most ? 1 : 0;
  while (result.winner < answers.size() && votes[answers[result.winner]] < most) ++result.winner;
  return result;
}

Result<VoteScore> majority_at_k(std::span<const std::string> answers, const std::string& truth,
                                int64_t k) {
  const size_t n = answers.size();
  if (k < 1 || static_cast<size_t>(k) > n || n > kMaxVotes) {
    return invalid_argument(
        fmt::format("majority of k answers: expected 1 <= k <= n <= {}, found n = {}, k = {}",
                    kMaxVotes, n, k));
  }
  std::map<std::string_view, Positions> by_answer;
  for (size_t i = 0; i < n; ++i) by_answer[answers[i]].push_back(i);
  const Positions own = by_answer[truth];
  by_answer.erase(truth);
  std::vector<Positions> others;
  for (auto& [answer, positions] : by_answer) others.push_back(std::move(positions));

  const Binomials binomial(n);
  const auto drawn = static_cast<size_t>(k);
  VoteScore score;
  for (size_t most = 1; most <= std::min(own.size(), drawn); ++most) {
    const size_t rest = drawn - most;
    const Ways anywhere = other_votes(others, rest, most, 0, binomial);
    for (size_t tied = 0; tied < anywhere.size(); ++tied) {
      score.shared +=
          binomial(own.size(), most) * anywhere[tied][rest] / static_cast<double>(1 + tied);
    }
    for (size_t first = 0; first < own.size(); ++first) {
      const Ways later = other_votes(others, rest, most, own[first], binomial);
      for (const std::vector<double>& ways : later)
        score.first_seen += binomial(own.size() - first - 1, most - 1) * ways[rest];
    }
  }
  score.first_seen /= binomial(n, drawn);
  score.shared /= binomial(n, drawn);
  return score;
}

}  // namespace cachalot::post
