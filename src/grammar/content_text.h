// What a model may say to the user before its tool calls, as an expression that the completion
// parser reads the same way.
#pragma once

#include <span>
#include <string>

#include "grammar/expression.h"

namespace cachalot::grammar {

// Text in which none of the patterns occurs, then nothing or `calls`. Calls, which begin with a
// blank line, follow only text that leaves no Markdown fence open (what is in one is quoted, see
// text/chat_code_fence.h) and does not end in white space.
Expression content_text(GrammarSource& source, std::span<const std::string> patterns,
                        Expression calls);

}  // namespace cachalot::grammar
