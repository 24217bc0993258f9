#include "data/tasks/small_program.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <optional>
#include <utility>

namespace cachalot::data {
namespace {

constexpr size_t kMaxCharacters = 8192;
constexpr int64_t kMaxLinesRun = 10'000;
constexpr int64_t kMaxValue = 1'000'000'000'000'000;
constexpr int kMaxBlocks = 16;
constexpr int kMaxParentheses = 64;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

bool is_name(std::string_view text) {
  if (text.empty() || !is_letter(text[0])) return false;
  for (const char c : text) {
    if (!is_letter(c) && !is_digit(c)) return false;
  }
  for (const std::string_view word : {"def", "return", "if", "else", "while"}) {
    if (text == word) return false;
  }
  return true;
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \r") - begin + 1);
}

Status wrong(size_t line, std::string_view what) {
  return invalid_argument(fmt::format("line {}: {}", line, what));
}

using Values = std::map<std::string, int64_t, std::less<>>;

// Recursive descent: a comparison of sums of products of factors.
class Evaluation {
 public:
  Evaluation(std::string_view text, const Values& values, size_t line)
      : text_(text), values_(values), line_(line) {}

  Result<int64_t> value() {
    CACHALOT_ASSIGN_OR_RETURN(const int64_t result, comparison());
    if (peek() != '\0') return fail("expected an operator or the line's end");
    return result;
  }

 private:
  Status fail(std::string_view what) const { return wrong(line_, what); }
  char peek() {
    while (place_ < text_.size() && text_[place_] == ' ') ++place_;
    return place_ < text_.size() ? text_[place_] : '\0';
  }
  bool take(std::string_view sign) {
    peek();
    if (!text_.substr(place_).starts_with(sign)) return false;
    place_ += sign.size();
    return true;
  }

  Result<int64_t> comparison() {
    CACHALOT_ASSIGN_OR_RETURN(const int64_t left, sum());
    static constexpr std::string_view kSigns[] = {"==", "!=", "<=", ">=", "<", ">"};
    for (size_t i = 0; i < std::size(kSigns); ++i) {
      if (!take(kSigns[i])) continue;
      CACHALOT_ASSIGN_OR_RETURN(const int64_t right, sum());
      const bool holds[] = {left == right, left != right, left <= right, left >= right,
                            left<right, left> right};
      return int64_t{holds[i]};
    }
    return left;
  }

  Result<int64_t> bounded(int64_t value) const {
    if (std::abs(value) > kMaxValue) return fail("expected smaller values");
    return value;
  }

  Result<int64_t> sum() {
    CACHALOT_ASSIGN_OR_RETURN(int64_t value, product());
    for (char op = peek(); op == '+' || op == '-'; op = peek()) {
      ++place_;
      CACHALOT_ASSIGN_OR_RETURN(const int64_t right, product());
      CACHALOT_ASSIGN_OR_RETURN(value, bounded(op == '+' ? value + right : value - right));
    }
    return value;
  }

  Result<int64_t> product() {
    CACHALOT_ASSIGN_OR_RETURN(int64_t value, factor());
    while (true) {
      const bool is_rest = take("%");
      if (is_rest || take("//")) {
        CACHALOT_ASSIGN_OR_RETURN(const int64_t right, factor());
        if (right == 0) return fail("expected a divisor that is not 0");
        const int64_t rest = (value % right + right) % right;
        value = is_rest ? rest : (value - rest) / right;
      } else if (take("*")) {
        CACHALOT_ASSIGN_OR_RETURN(const int64_t right, factor());
        if (right != 0 && std::abs(value) > kMaxValue / std::abs(right))
          return fail("expected smaller values");
        value *= right;
      } else {
        return value;
      }
    }
  }

  Result<int64_t> factor() {
    if (++depth_ > kMaxParentheses) return fail("expected fewer parentheses");
    const Result<int64_t> result = factor_inside();
    --depth_;
    return result;
  }

  Result<int64_t> factor_inside() {
    const char first = peek();
    if (first == '-') {
      ++place_;
      CACHALOT_ASSIGN_OR_RETURN(const int64_t value, factor());
      return -value;
    }
    if (first == '(') {
      ++place_;
      CACHALOT_ASSIGN_OR_RETURN(const int64_t value, comparison());
      if (!take(")")) return fail("expected a closing parenthesis");
      return value;
    }
    const size_t begin = place_;
    if (is_digit(first)) {
      int64_t value = 0;
      for (; place_ < text_.size() && is_digit(text_[place_]); ++place_) {
        value = value * 10 + (text_[place_] - '0');
        CACHALOT_ASSIGN_OR_RETURN(value, bounded(value));
      }
      return value;
    }
    while (place_ < text_.size() && (is_letter(text_[place_]) || is_digit(text_[place_]))) ++place_;
    const std::string_view name = text_.substr(begin, place_ - begin);
    const auto found = values_.find(name);
    if (found == values_.end()) return fail("expected a number or a name that has a value");
    return found->second;
  }

  std::string_view text_;
  const Values& values_;
  size_t line_;
  size_t place_ = 0;
  int depth_ = 0;
};

}  // namespace

Result<SmallProgram> SmallProgram::parse(std::string_view text) {
  if (text.size() > kMaxCharacters) return invalid_argument("expected a shorter program");
  SmallProgram program;
  bool is_inside = false;
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view whole = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::string_view line = trimmed(whole);
    if (!is_inside) {
      if (!whole.starts_with("def ")) continue;
      const size_t open = line.find('(');
      if (open == std::string_view::npos || !line.ends_with("):") ||
          !is_name(trimmed(line.substr(4, open - 4))))
        return wrong(number, "expected def NAME(A, B):");
      std::string_view rest = line.substr(open + 1, line.size() - open - 3);
      while (!trimmed(rest).empty()) {
        const size_t comma = std::min(rest.find(','), rest.size());
        const std::string_view name = trimmed(rest.substr(0, comma));
        if (!is_name(name)) return wrong(number, "expected names in the parentheses");
        program.parameters_.emplace_back(name);
        rest.remove_prefix(std::min(comma + 1, rest.size()));
      }
      is_inside = true;
      continue;
    }
    if (line.empty()) continue;
    const size_t indent = whole.find_first_not_of(' ');
    if (indent == 0) break;
    Line& made = program.lines_.emplace_back();
    made.indent = indent;
    made.number = number;
    const auto block = [&](std::string_view word, Line::Kind kind) {
      if (!line.starts_with(word) || !line.ends_with(':')) return false;
      made.kind = kind;
      made.expression = trimmed(line.substr(word.size(), line.size() - word.size() - 1));
      return true;
    };
    const size_t sign = line.find('=');
    if (line.starts_with("return ")) {
      made.kind = Line::Kind::give_back;
      made.expression = line.substr(7);
    } else if (block("if ", Line::Kind::when) || block("while ", Line::Kind::repeat) ||
               block("else", Line::Kind::otherwise)) {
      continue;
    } else if (sign != std::string_view::npos && is_name(trimmed(line.substr(0, sign)))) {
      made.kind = Line::Kind::assign;
      made.name = trimmed(line.substr(0, sign));
      made.expression = line.substr(sign + 1);
    } else {
      return wrong(number, "expected NAME = ..., return ..., if ...:, else: or while ...:");
    }
  }
  if (program.lines_.empty()) return invalid_argument("expected a function, found none");
  return program;
}

class SmallProgramRun {
 public:
  SmallProgramRun(const SmallProgram& program, Values values)
      : lines_(program.lines_), values_(std::move(values)) {}

  Result<int64_t> run() {
    CACHALOT_ASSIGN_OR_RETURN(const std::optional<int64_t> given,
                              block(0, lines_.size(), lines_[0].indent, 0));
    if (!given) return invalid_argument("expected it to return a value");
    return *given;
  }

 private:
  using Line = SmallProgram::Line;

  // Where the block ends that the line's own block has in it.
  size_t end_of(size_t line, size_t end) const {
    size_t next = line + 1;
    while (next < end && lines_[next].indent > lines_[line].indent) ++next;
    return next;
  }
  Result<int64_t> value(const Line& line) const {
    return Evaluation(line.expression, values_, line.number).value();
  }
  Result<std::optional<int64_t>> inner(size_t line, size_t end, int depth) {
    if (end == line + 1) return wrong(lines_[line].number, "expected a block of lines behind it");
    return block(line + 1, end, lines_[line + 1].indent, depth + 1);
  }

  // Lines [line, end) of one indent; what they return, if they do.
  Result<std::optional<int64_t>> block(size_t line, size_t end, size_t indent, int depth) {
    if (depth > kMaxBlocks) return wrong(lines_[line].number, "expected fewer blocks");
    bool may_have_else = false, was_true = false;
    while (line < end) {
      const Line& at = lines_[line];
      if (at.indent != indent) return wrong(at.number, "expected the indent of the lines above");
      if (++lines_run_ > kMaxLinesRun) return wrong(at.number, "expected an end by now");
      const size_t next = end_of(line, end);
      const bool had_if = std::exchange(may_have_else, false);
      switch (at.kind) {
        case Line::Kind::assign: {
          CACHALOT_ASSIGN_OR_RETURN(values_[at.name], value(at));
          break;
        }
        case Line::Kind::give_back: {
          CACHALOT_ASSIGN_OR_RETURN(const int64_t given, value(at));
          return std::optional(given);
        }
        case Line::Kind::when:
        case Line::Kind::otherwise: {
          if (at.kind == Line::Kind::when) {
            CACHALOT_ASSIGN_OR_RETURN(const int64_t holds, value(at));
            was_true = holds != 0;
            may_have_else = true;
          } else if (!had_if || !at.expression.empty()) {
            return wrong(at.number, "expected an if before else:");
          }
          if (was_true == (at.kind == Line::Kind::when)) {
            CACHALOT_ASSIGN_OR_RETURN(const std::optional<int64_t> given, inner(line, next, depth));
            if (given) return given;
          }
          break;
        }
        case Line::Kind::repeat:
          while (true) {
            if (++lines_run_ > kMaxLinesRun) return wrong(at.number, "expected an end by now");
            CACHALOT_ASSIGN_OR_RETURN(const int64_t holds, value(at));
            if (holds == 0) break;
            CACHALOT_ASSIGN_OR_RETURN(const std::optional<int64_t> given, inner(line, next, depth));
            if (given) return given;
          }
          break;
      }
      const bool has_block = at.kind == Line::Kind::when || at.kind == Line::Kind::otherwise ||
                             at.kind == Line::Kind::repeat;
      if (!has_block && next != line + 1)
        return wrong(lines_[line + 1].number, "expected the indent of the lines above");
      line = next;
    }
    return std::optional<int64_t>();
  }

  const std::vector<Line>& lines_;
  Values values_;
  int64_t lines_run_ = 0;
};

Result<int64_t> SmallProgram::run(std::span<const int64_t> arguments) const {
  if (arguments.size() != parameters_.size()) {
    return invalid_argument(
        fmt::format("expected {} parameters, found {}", arguments.size(), parameters_.size()));
  }
  Values values;
  for (size_t i = 0; i < arguments.size(); ++i) values[parameters_[i]] = arguments[i];
  return SmallProgramRun(*this, std::move(values)).run();
}

}  // namespace cachalot::data
