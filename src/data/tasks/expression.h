// Integer expressions as a reply writes them.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cachalot::data {

struct EvaluatedExpression {
  int64_t value = 0;
  std::vector<int64_t> numbers;  // those written, in order
};

// + - * / ( ) over nonnegative integers, usual precedence, spaces anywhere between. Division must
// come out even. Refuses (invalid_argument) anything else, more than 400 characters, and values
// beyond 10^15. Any bytes are safe to give.
Result<EvaluatedExpression> evaluate_expression(std::string_view text);

}  // namespace cachalot::data
