// Grammars written as text: the notation of GBNF.
// Notation name ::= alternatives; "text" with the escapes \n \r \t \f \\ \" \[ \] \- \^ \/ \xHH
//          \uHHHH \UHHHHHHHH; [classes] with ranges, ^ and the same escapes; . for any character;
//          ( ) groups; | between alternatives; * + ? {m} {m,} {m,n} after what they repeat; #
//          comments to the end of the line. A rule ends where the next begins. The rule `root` is
//          the grammar.
// Errors   invalid_argument with the line, what was expected and what was found; a rule that is
//          used and not defined, or defined twice, by name.
#pragma once

#include <string_view>

#include "base/status.h"
#include "grammar/expression.h"

namespace cachalot::grammar {

inline constexpr size_t kMaxGrammarBytes = size_t{1} << 19;

Result<GrammarSource> parse_grammar_text(std::string_view text);

}  // namespace cachalot::grammar
