// Token ids of what people type: raw text, or a conversation in the format of the model's family.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "formats/config.h"
#include "text/chat_encoding.h"
#include "text/tokenizer.h"

namespace cachalot::apps {

// The text, after BOS unless it begins with one. Control strings in it are control tokens: whoever
// writes a raw prompt writes its format too. A tokenizer that does not know DeepSeek's BOS gets the
// configuration's bos_token_id.
std::vector<int32_t> raw_prompt_ids(const text::Tokenizer& tokenizer,
                                    const formats::ModelConfig& config, std::string_view prompt);

// `name` where it is given; else v4.1 where the tokenizer has that family's system token
// (reference/chat 0), else v4: the files of v4 and v4-0731 do not tell them apart.
Result<text::PromptFamily> prompt_family(const text::Tokenizer& tokenizer, std::string_view name);

struct ChatStyle {
  text::PromptFamily family = text::PromptFamily::v4;
  bool thinking = true;
  text::ReasoningEffort effort = {};
};

struct ChatPrompt {
  std::vector<int32_t> ids;
  bool ends_in_reasoning = false;
};
// Text of the messages never becomes control tokens.
Result<ChatPrompt> chat_prompt(const text::Tokenizer& tokenizer, text::ChatRequest request,
                               const ChatStyle& style);

}  // namespace cachalot::apps
