// Token ids of what people type: raw text, or a conversation in the format of the model's family.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/chat_encoding.h"
#include "text/chat_normalize.h"
#include "text/tokenizer.h"

namespace cachalot::text {

// The text, after BOS unless it begins with one. Control strings in it are control tokens: whoever
// writes a raw prompt writes its format too. A tokenizer that does not know DeepSeek's BOS gets
// `bos_token`, the model's.
std::vector<int32_t> raw_prompt_ids(const Tokenizer& tokenizer, int64_t bos_token,
                                    std::string_view prompt);

// `name` where it is given; else v4.1 where the tokenizer has that family's system token
// (reference/chat 0), else v4: the files of v4 and v4-0731 do not tell them apart.
Result<PromptFamily> prompt_family(const Tokenizer& tokenizer, std::string_view name);

struct ChatStyle {
  PromptFamily family = PromptFamily::v4;
  bool thinking = true;
  ReasoningEffort effort = {};
  // As EncodeOptions and NormalizeOptions have them.
  bool drop_thinking = true;
  NormalizeOptions::TrailingAssistant trailing_assistant =
      NormalizeOptions::TrailingAssistant::reject;
};

struct ChatPrompt {
  std::vector<int32_t> ids;
  bool ends_in_reasoning = false;
};
// Text of the messages never becomes control tokens.
Result<ChatPrompt> chat_prompt(const Tokenizer& tokenizer, ChatRequest request,
                               const ChatStyle& style);

}  // namespace cachalot::text
