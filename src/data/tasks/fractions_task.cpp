#include <fmt/format.h>

#include <numeric>

#include "data/tasks/task_parts.h"

namespace cachalot::data {
namespace {

// In lowest terms, the bottom positive.
struct Fraction {
  int64_t top = 0;
  int64_t bottom = 1;
};

Fraction in_lowest_terms(int64_t top, int64_t bottom) {
  const int64_t divisor = bottom < 0 ? -std::gcd(top, bottom) : std::gcd(top, bottom);
  return {.top = top / divisor, .bottom = bottom / divisor};
}

Fraction combined(const Fraction& a, char sign, const Fraction& b) {
  switch (sign) {
    case '+': return in_lowest_terms(a.top * b.bottom + b.top * a.bottom, a.bottom * b.bottom);
    case '-': return in_lowest_terms(a.top * b.bottom - b.top * a.bottom, a.bottom * b.bottom);
    case '*': return in_lowest_terms(a.top * b.top, a.bottom * b.bottom);
    default: return in_lowest_terms(a.top * b.bottom, a.bottom * b.top);
  }
}

std::string fraction_text(const Fraction& fraction) {
  return fraction.bottom == 1 ? fmt::format("{}", fraction.top)
                              : fmt::format("{}/{}", fraction.top, fraction.bottom);
}
}  // namespace

// 2 + difficulty / 5 fractions with denominators up to 6 + 2 * difficulty, all alike at 0. Sums;
// differences from 1 on, products from 3 on, quotients from 5 on.
Task make_fractions(int difficulty, Draw draw) {
  const int64_t count = 2 + difficulty / 5;
  const bool is_product = difficulty >= 3 && draw.coin();
  const int64_t largest = 6 + 2 * difficulty;
  int64_t bottom = draw.between(2, largest);
  // Factors stand in parentheses.
  const auto in_place = [&](const std::string& text) {
    return is_product ? "(" + text + ")" : text;
  };
  std::string expression, reasoning;
  Fraction value;
  for (int64_t i = 0; i < count; ++i) {
    if (difficulty > 0) bottom = draw.between(2, largest);
    const int64_t top = draw.between(1, bottom + (difficulty >= 2 ? bottom : -1));
    // Written as drawn: it may have common factors.
    const std::string written = in_place(fmt::format("{}/{}", top, bottom));
    const Fraction next = in_lowest_terms(top, bottom);
    if (i == 0) {
      value = next;
      expression = written;
      continue;
    }
    const bool inverse = difficulty >= (is_product ? 5 : 1) && draw.coin();
    const char sign = is_product ? (inverse ? '/' : '*') : (inverse ? '-' : '+');
    const Fraction result = combined(value, sign, next);
    expression += fmt::format(" {} {}", sign, written);
    reasoning += fmt::format("{} {} {} = {}\n", in_place(fraction_text(value)), sign,
                             in_place(fraction_text(next)), fraction_text(result));
    value = result;
  }
  return exact_answer_task(
      fmt::format("Compute {} as a fraction in lowest terms, like 2/3 or -5/4; a whole number "
                  "stands alone.",
                  expression),
      std::move(reasoning), fraction_text(value));
}

}  // namespace cachalot::data
