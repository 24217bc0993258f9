// arithmetic, numbers and sums.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "data/tasks/task_parts.h"

namespace cachalot::data {
namespace {
// A number or a product of two.
struct Term {
  int64_t left = 0;
  int64_t right = 1;
  bool is_product = false;
  int64_t value() const { return left * right; }
  std::string text() const {
    return is_product ? fmt::format("{} * {}", left, right) : fmt::format("{}", left);
  }
};

std::string in_base(int64_t value, int64_t base) {
  std::string digits;
  do {
    digits += "0123456789abcdef"[value % base];
    value /= base;
  } while (value > 0);
  std::reverse(digits.begin(), digits.end());
  return digits;
}
}  // namespace

// Digits grow every third step, terms every fourth; differences from 1 on, products from 3 on.
Task make_arithmetic(int difficulty, Draw draw) {
  const int64_t digits = 1 + difficulty / 3;
  const int64_t num_terms = 2 + difficulty / 4;
  std::string expression, reasoning;
  int64_t total = 0;
  std::string products;
  std::vector<std::pair<char, int64_t>> values;
  for (int64_t i = 0; i < num_terms; ++i) {
    Term term = {.left = draw.digits(digits)};
    if (difficulty >= 3 && draw.between(0, 2) == 0) {
      term.is_product = true;
      term.right = draw.between(2, difficulty >= 9 ? 99 : 9);
      reasoning += fmt::format("{} = {}\n", term.text(), term.value());
    }
    const char sign = i > 0 && difficulty >= 1 && draw.coin() ? '-' : '+';
    expression += i == 0 ? term.text() : fmt::format(" {} {}", sign, term.text());
    values.emplace_back(sign, term.value());
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const auto [sign, value] = values[i];
    const int64_t next = sign == '-' ? total - value : total + value;
    if (i > 0) reasoning += fmt::format("{} {} {} = {}\n", total, sign, value, next);
    total = next;
  }
  return exact_answer_task(fmt::format("Compute {}.", expression), std::move(reasoning),
                           fmt::format("{}", total));
}

Task make_numbers(int difficulty, Draw draw) {
  const int64_t digits = 1 + difficulty / 2;
  const int64_t kind = draw.between(0, 2);
  if (kind == 0) {
    const int64_t factor = draw.digits(1 + digits / 3) + 1;
    int64_t a = factor * (draw.digits(digits) + 1), b = factor * (draw.digits(digits) + 1);
    const std::string prompt =
        fmt::format("What is the greatest common divisor of {} and {}?", a, b);
    std::string reasoning;
    while (b != 0) {
      reasoning += fmt::format("{} mod {} = {}\n", a, b, a % b);
      a = std::exchange(b, a % b);
    }
    return exact_answer_task(prompt, std::move(reasoning), fmt::format("{}", a));
  }
  if (kind == 1) {
    const int64_t a = draw.digits(digits + 1), b = draw.between(2, difficulty >= 6 ? 99 : 9);
    return exact_answer_task(
        fmt::format("What is the remainder of {} divided by {}?", a, b),
        fmt::format("{} * {} = {}\n{} - {} = {}\n", b, a / b, a / b * b, a, a / b * b, a % b),
        fmt::format("{}", a % b));
  }
  const int64_t value = draw.digits(digits);
  const int64_t base = draw.pick(std::vector<int64_t>{2, 3, 5, 7, 8, 16});
  if (draw.coin()) {
    std::string reasoning;
    for (int64_t rest = value; rest > 0; rest /= base) {
      reasoning += fmt::format("{} = {} * {} + {}\n", rest, base, rest / base, rest % base);
    }
    return exact_answer_task(fmt::format("Write {} in base {}.", value, base), std::move(reasoning),
                             in_base(value, base));
  }
  return exact_answer_task(
      fmt::format("Which decimal number is {} in base {}?", in_base(value, base), base), {},
      fmt::format("{}", value));
}

// 3 + difficulty digits; what is left never falls below 0.
Task make_sums(int difficulty, Draw draw) {
  int64_t total = draw.digits(1);
  std::string expression = fmt::format("{}", total), reasoning;
  for (int i = 0; i < 2 + difficulty; ++i) {
    const int64_t digit = draw.digits(1);
    const bool takes = draw.coin() && digit <= total;
    const int64_t next = takes ? total - digit : total + digit;
    expression += fmt::format(" {} {}", takes ? '-' : '+', digit);
    reasoning += fmt::format("{} {} {} = {}\n", total, takes ? '-' : '+', digit, next);
    total = next;
  }
  return exact_answer_task(fmt::format("What is {}?", expression), std::move(reasoning),
                           fmt::format("{}", total));
}

}  // namespace cachalot::data
