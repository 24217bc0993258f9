// Estimators over n answers to one task, c of them correct.
// Source  reference/post-training 10.1. pass@k: the chance that k answers, drawn without
//         replacement, hold a correct one; pass^k: that all k are correct.
// Errors  invalid_argument: not 0 <= c <= n, 1 <= k <= n.
// Threads  any.
#pragma once

#include <cstdint>

#include "base/status.h"

namespace cachalot::post {

Result<double> pass_at_k(int64_t n, int64_t c, int64_t k);     // 1 - C(n - c, k) / C(n, k)
Result<double> pass_power_k(int64_t n, int64_t c, int64_t k);  // C(c, k) / C(n, k)

}  // namespace cachalot::post
