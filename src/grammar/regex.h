// Regular expressions as grammar expressions.
// Subset   literals; . [classes] with ranges and negation; \d \D \w \W \s \S; \n \r \t \f \v \0;
//          \xHH \uHHHH \u{H..}; groups ( ), (?: ), named ones; | * + ? {m} {m,} {m,n}, also lazy,
//          which means the same here; ^ at the start and $ at the end of a top-level alternative.
//          Anything else (look-around, back references, \b, \p, flags, possessive quantifiers) is
//          refused by name.
// Unicode  Characters are code points. Where dialects differ, a class is what all agree on: \d, \w,
//          \s are ASCII, \D, \W, \S leave out the Unicode digits, word characters and spaces, and
//          the dot leaves out every line end.
// Errors   invalid_argument or unsupported, with the pattern, the place and what was found.
// Threads  Any; a source belongs to one thread at a time.
#pragma once

#include <functional>
#include <string_view>

#include "base/status.h"
#include "grammar/expression.h"

namespace cachalot::grammar {

inline constexpr size_t kMaxRegexBytes = size_t{1} << 16;

struct RegexOptions {
  // Whether the pattern must match the whole text or may match anywhere in it (where it has no
  // anchors).
  bool matches_whole = true;
  // How a character of the text is written; by default as itself.
  std::function<Expression(const CodePoints&)> write = {};
};

struct Regex {
  Expression expression = 0;
  // Characters of the texts that match; kUnbounded if there is no bound.
  int64_t min_length = 0, max_length = 0;
};

Result<Regex> parse_regex(std::string_view pattern, GrammarSource& source,
                          const RegexOptions& options = {});

}  // namespace cachalot::grammar
