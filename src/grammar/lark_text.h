// Grammars in the notation of Lark, as OpenAI's custom tools carry them.
// Notation name: alternatives, of rules in small and terminals in capital letters; "text", "text"i,
//          /regex/ (regex.h), "a".."z"; ( ) groups; [ ] or ? for what may be absent; * + ~n ~n..m;
//          | between alternatives, also at the beginning of a line; -> names, !, ? and priorities,
//          which say nothing about texts; %import common.NAME; %ignore; // and # comments. The rule
//          `start` is the grammar.
// Wider    Every way to cut a text into terminals counts, not only the one that a lexer takes.
// Errors   invalid_argument with the line, what was expected and what was found; unsupported, by
//          name: templates, other directives, flags of expressions, and what regex.h refuses. A
//          rule may call itself first; rules that begin with each other in a circle do not compile.
#pragma once

#include <string_view>

#include "base/status.h"
#include "grammar/expression.h"

namespace cachalot::grammar {

// `left_out`: characters that no text has.
Result<GrammarSource> parse_lark_text(std::string_view text, const CodePoints& left_out = {});

}  // namespace cachalot::grammar
