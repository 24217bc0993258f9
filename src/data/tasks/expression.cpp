#include "data/tasks/expression.h"

#include <fmt/format.h>

#include <cstdlib>

namespace cachalot::data {
namespace {
constexpr size_t kMaxCharacters = 400;  // bounds the recursion too
constexpr int64_t kMaxValue = 1'000'000'000'000'000;

// Recursive descent: sum of products of factors.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<EvaluatedExpression> parse() {
    CACHALOT_ASSIGN_OR_RETURN(result_.value, sum());
    if (peek() != '\0') return fail("its end");
    return std::move(result_);
  }

 private:
  Status fail(std::string_view expected) const {
    return invalid_argument(fmt::format("expression: character {}: expected {}", place_, expected));
  }
  char peek() {
    while (place_ < text_.size() && text_[place_] == ' ') ++place_;
    return place_ < text_.size() ? text_[place_] : '\0';
  }

  Result<int64_t> sum() {
    CACHALOT_ASSIGN_OR_RETURN(int64_t value, product());
    for (char op = peek(); op == '+' || op == '-'; op = peek()) {
      ++place_;
      CACHALOT_ASSIGN_OR_RETURN(const int64_t right, product());
      value = op == '+' ? value + right : value - right;
      if (std::abs(value) > kMaxValue) return fail("smaller values");
    }
    return value;
  }

  Result<int64_t> product() {
    CACHALOT_ASSIGN_OR_RETURN(int64_t value, factor());
    for (char op = peek(); op == '*' || op == '/'; op = peek()) {
      ++place_;
      CACHALOT_ASSIGN_OR_RETURN(const int64_t right, factor());
      if (op == '/') {
        if (right == 0 || value % right != 0) return fail("a division that comes out even");
        value /= right;
      } else {
        if (right != 0 && std::abs(value) > kMaxValue / std::abs(right))
          return fail("smaller values");
        value *= right;
      }
    }
    return value;
  }

  Result<int64_t> factor() {
    if (peek() == '(') {
      ++place_;
      CACHALOT_ASSIGN_OR_RETURN(const int64_t value, sum());
      if (peek() != ')') return fail("a closing parenthesis");
      ++place_;
      return value;
    }
    if (peek() < '0' || peek() > '9') return fail("a number");
    int64_t value = 0;
    for (; place_ < text_.size() && text_[place_] >= '0' && text_[place_] <= '9'; ++place_) {
      value = value * 10 + (text_[place_] - '0');
      if (value > kMaxValue) return fail("smaller values");
    }
    result_.numbers.push_back(value);
    return value;
  }

  std::string_view text_;
  size_t place_ = 0;
  EvaluatedExpression result_;
};
}  // namespace

Result<EvaluatedExpression> evaluate_expression(std::string_view text) {
  if (text.size() > kMaxCharacters) {
    return invalid_argument(fmt::format("expression: expected at most {} characters, found {}",
                                        kMaxCharacters, text.size()));
  }
  if (text.find('\0') != std::string_view::npos) {
    return invalid_argument("expression: expected no zero byte");
  }
  return Parser(text).parse();
}

}  // namespace cachalot::data
