// JSON texts as grammar expressions: what JSON itself allows, before any schema.
// Style    No white space but what is useful to read: after a bracket, a comma or a colon and
//          before a closing bracket, nothing, one space, or a line break and at most kMaxIndent
//          spaces or tabs. Numbers have at most 16 digits before the point, 16 after it and 2 in
//          the exponent: any more would not survive a reader. Escapes never make half a surrogate
//          pair.
// Threads  One at a time.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/json.h"
#include "grammar/expression.h"

namespace cachalot::grammar {

inline constexpr int64_t kMaxIndent = 40;

class JsonText {
 public:
  // Characters of `escaped` stand in strings as \uXXXX only; they are below U+10000.
  explicit JsonText(GrammarSource& source, CodePoints escaped = {});

  Expression space();
  // One character of a string, as it may be written in one.
  Expression character(const CodePoints& set);
  Expression quoted(Expression characters);
  Expression string(int64_t min_length = 0, int64_t max_length = kUnbounded);
  // The whole numbers from `min` to `max`, bounds included; at most 18 digits.
  Expression integer(std::optional<int64_t> min = {}, std::optional<int64_t> max = {});
  Expression number();
  Expression any_value();
  Expression any_object();
  // Exactly this value, with the white space of the style.
  Expression value(const json::value& value);
  Expression text(std::string_view characters);  // a string with its quotes
  // A string that is none of these, written without escapes.
  Expression text_other_than(std::span<const std::string> names);

  struct Member {
    Expression key = 0, value = 0;
    bool is_required = false;
  };
  // The members in this order, those that are not required at will; then any number of `others`.
  Expression object(std::span<const Member> members, const std::optional<Member>& others);
  // The first items as in `prefix`, the others as `item`.
  Expression array(std::span<const Expression> prefix, Expression item, int64_t min_items,
                   int64_t max_items);

 private:
  Expression any_character();
  Expression shared(std::optional<Expression>& call, const char* name,
                    const std::function<Expression()>& body);

  GrammarSource& source_;
  const CodePoints escaped_;
  std::optional<Expression> space_, character_, string_, integer_, number_, value_, object_;
};

}  // namespace cachalot::grammar
