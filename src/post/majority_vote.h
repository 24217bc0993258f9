// The answer that most of n answers give, and how often it is right when only k of them are drawn.
// Source  reference/post-training 10.1. Ties go to the answer seen first, or are shared: one of m
//         answers with the most votes counts 1 / m.
// Threads  any.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"

namespace cachalot::post {

struct Majority {
  size_t winner = 0;  // the first answer that gives it
  int64_t tied = 0;   // answers with as many votes, the winner included; 0 where there are none
};
Majority majority_vote(std::span<const std::string> answers);

// How right a vote is: 1 or 0 with ties to the answer seen first; with shared ties also between.
struct VoteScore {
  double first_seen = 0;
  double shared = 0;
};
// The mean over all C(n, k) sets of k answers, each in the order given. Exact up to rounding: the
// sets are counted, not enumerated.
// Errors  invalid_argument: not 1 <= k <= n, more than kMaxVotes answers.
inline constexpr size_t kMaxVotes = 1000;  // their binomials fit a double
Result<VoteScore> majority_at_k(std::span<const std::string> answers, const std::string& truth,
                                int64_t k);

}  // namespace cachalot::post
