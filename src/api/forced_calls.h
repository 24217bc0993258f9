// For tests of agents on a model that cannot do their tasks: what a conversation's answers say is
// fixed beforehand. All else is as ever: prompts, which tokens spell the answer, parsing, cache.
#pragma once

#include <string_view>
#include <vector>

#include "base/status.h"
#include "grammar/expression.h"
#include "grammar/vocabulary.h"
#include "text/chat_message.h"

namespace cachalot::api {

class ForcedCalls {
 public:
  struct Answer {
    std::vector<text::ToolCall> calls;
    std::string content;  // before them
  };

  // One answer a line: {"text": "...", "calls": [{"name": "...", "arguments": {...}}]}, either may
  // be left out. `origin` names the file in errors.
  static Result<ForcedCalls> parse(std::string_view lines, std::string_view origin);

  // The line of a conversation in which so many answers have called tools already. Null beyond the
  // last, and for requests that do not offer these tools: agents send others beside.
  const Answer* find(const std::vector<text::Message>& messages,
                     const std::vector<text::ToolDefinition>& tools) const;

 private:
  std::vector<Answer> answers_;
};

// The answer alone, its reasoning empty.
Result<grammar::GrammarSource> forced_grammar(const ForcedCalls::Answer& answer,
                                              text::PromptFamily family, bool starts_in_reasoning,
                                              const grammar::Vocabulary& vocabulary);

}  // namespace cachalot::api
