#include "text/prompt_ids.h"

#include "text/chat_literals.h"

namespace cachalot::text {

std::vector<int32_t> raw_prompt_ids(const Tokenizer& tokenizer, int64_t bos_token,
                                    std::string_view prompt) {
  if (tokenizer.token_id(kBos)) return tokenizer.encode(encode_raw(prompt).flat());
  const auto bos = static_cast<int32_t>(bos_token);
  std::vector<int32_t> ids = tokenizer.encode(prompt);
  if (ids.empty() || ids.front() != bos) ids.insert(ids.begin(), bos);
  return ids;
}

Result<PromptFamily> prompt_family(const Tokenizer& tokenizer, std::string_view name) {
  if (!name.empty()) return parse_prompt_family(name);
  for (const AddedToken& token : tokenizer.added_tokens()) {
    if (token.content == kSystemToken) return PromptFamily::v4_1;
  }
  return PromptFamily::v4;
}

Result<ChatPrompt> chat_prompt(const Tokenizer& tokenizer, ChatRequest request,
                               const ChatStyle& style) {
  NormalizeOptions normalize;
  normalize.family = style.family;
  normalize.trailing_assistant = style.trailing_assistant;
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<Message> messages,
                            normalize_messages(std::move(request), normalize));
  EncodeOptions encode;
  encode.family = style.family;
  encode.thinking = style.thinking;
  encode.drop_thinking = style.drop_thinking;
  if (style.thinking) encode.effort = style.effort;
  CACHALOT_ASSIGN_OR_RETURN(const EncodedPrompt prompt, encode_chat(messages, encode));
  const std::vector<Segment> segments = prompt.views();
  return ChatPrompt{tokenizer.encode_segments(segments), prompt.ends_in_reasoning};
}

}  // namespace cachalot::text
