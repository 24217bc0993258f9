// Small programs as a policy writes them: one function over integers, in a part of Python, run
// here, step by step and within limits, so that nothing they say reaches the machine.
// Language  def NAME(A, B): and indented lines: NAME = EXPR, return EXPR, if EXPR:, else:, while
//           EXPR:, with blocks of lines indented further. EXPR: integers, names, ( ), unary -, * //
//           % + -, one comparison (== != < <= > >=). // and % are Python's (the result's sign
//           is the divisor's).
// Limits    8,192 characters, 10,000 lines run, values up to 10^15, 16 blocks in each other, 64
//           parentheses.
// Threads   any.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cachalot::data {

class SmallProgram {
 public:
  // The function that begins at the text's first line "def ..."; lines before it, and behind it
  // from the first one that is not indented, are none of it.
  // Errors  invalid_argument: line, expected.
  static Result<SmallProgram> parse(std::string_view text);

  // What the function returns.
  // Errors  invalid_argument: what went wrong while it ran, with its line.
  Result<int64_t> run(std::span<const int64_t> arguments) const;

 private:
  struct Line {
    enum class Kind { assign, give_back, when, otherwise, repeat };
    Kind kind;
    size_t indent;
    std::string name, expression;
    size_t number;  // in the text
  };
  std::vector<std::string> parameters_;
  std::vector<Line> lines_;
  friend class SmallProgramRun;
};

}  // namespace cachalot::data
