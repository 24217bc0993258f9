// The estimators of post/ against those of other implementations: the `eval` part of a
// post-training set (reference/post-training 10.1, 10.5, 15).
// Format  codeforces.json   laws [{n, c, draws, first_success_at [draws], no_success}]; contests
//                           [{draws, problems [{n, c, score_after_fails}], humans [{total,
//                           rating}], expected {total_law [[total, probability]] (may be absent),
//                           expected_total, distinct_totals, expected_rating {best_sum,
//                           best_one_plus_sum, middle_sum, middle_one_plus_sum}}}]; final_rating
//                           (the same four, mean over contests); medians [{solvers [{fails,
//                           score}], score_after_fails [number or null]}]
//         sequence_match.json  pairs [{a, b, ratio, ratio_no_autojunk}]; graded [{prefix, answer,
//                           response, score}]
//         pass_vote.json    pass_at_k [{n, c, k, value, pass_power_k}]; majority [{answers, truth,
//                           k, winner, tied, maj_at_k_first_seen, maj_at_k_fractional}]
#pragma once

#include <string>

#include "base/status.h"
#include "verify/golden_report.h"

namespace cachalot::verify {

// One check a kind of number. Errors: a file that cannot be read or is of another layout.
Status verify_estimators(const std::string& directory, GoldenReport& report);

}  // namespace cachalot::verify
