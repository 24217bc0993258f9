// A conversation as samples to learn from: their tokens, and what each weighs as a target.
// Source   reference/post-training 2.1, 5.2, 15; reference/chat 2.
// Row      {"messages": [...], "tools": [...], "response_format": ..., "effort": "none" to "max",
//          "weight": 1}, or messages alone; messages as OpenAI's (text/chat_message.h says what is
//          read), an assistant's with a "weight" of its own. "reasoning_effort" is "effort".
// Targets  what the assistant says: reasoning and its closing token, text, calls, the end of the
//          turn. The header, with <think> or </think> of a turn that does not think, is the
//          prompt's.
// Thinking by "effort" of the row, else of the options; "auto": a conversation thinks (at the
//          default effort) if one of its answers has reasoning.
// Samples  one for the conversation; where reasoning of earlier turns is dropped (thinking, no
//          tools) one for each answer, which alone is learnt there, and at "auto" an answer without
//          reasoning then does not think. Answers of weight 0 have none.
// Weights  of a target: the row's times its message's; with TargetMean::samples over the sum of the
//          message's weights in the sample, so that samples of a row weigh alike however long.
// Text     of a conversation stays text, whatever it spells.
// Threads  pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "text/chat_message.h"
#include "text/tokenizer.h"

namespace cachalot::data {

enum class TargetMean {
  tokens,   // every target alike
  samples,  // every sample alike
};

struct ConversationOptions {
  text::PromptFamily family = text::PromptFamily::v4;
  std::string effort = "auto";  // or a client's name of one (text/chat_encoding.h)
  TargetMean mean = TargetMean::tokens;
};

struct ConversationSample {
  std::vector<int32_t> ids;
  std::vector<float> weights;  // of each id as a target; 0: none
  bool thinking = false;
};

// None where all weights are 0.
// Errors  invalid_argument naming the field of the row, what was expected and found; among others:
//         no assistant's message, one that follows no message that asks.
Result<std::vector<ConversationSample>> conversation_samples(const text::Tokenizer& tokenizer,
                                                             const json::value& row,
                                                             const ConversationOptions& options);

// Whether the tokenizer has the control tokens that part what is said from what is read.
Status check_conversation_tokens(const text::Tokenizer& tokenizer);

}  // namespace cachalot::data
