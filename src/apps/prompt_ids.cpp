#include "apps/prompt_ids.h"

#include "text/chat_literals.h"
#include "text/chat_normalize.h"

namespace cachalot::apps {

std::vector<int32_t> raw_prompt_ids(const text::Tokenizer& tokenizer,
                                    const formats::ModelConfig& config, std::string_view prompt) {
  if (tokenizer.token_id(text::kBos)) return tokenizer.encode(text::encode_raw(prompt).flat());
  const auto bos = static_cast<int32_t>(config.bos_token_id);
  std::vector<int32_t> ids = tokenizer.encode(prompt);
  if (ids.empty() || ids.front() != bos) ids.insert(ids.begin(), bos);
  return ids;
}

Result<text::PromptFamily> prompt_family(const text::Tokenizer& tokenizer, std::string_view name) {
  if (!name.empty()) return text::parse_prompt_family(name);
  for (const text::AddedToken& token : tokenizer.added_tokens()) {
    if (token.content == text::kSystemToken) return text::PromptFamily::v4_1;
  }
  return text::PromptFamily::v4;
}

Result<ChatPrompt> chat_prompt(const text::Tokenizer& tokenizer, text::ChatRequest request,
                               const ChatStyle& style) {
  text::NormalizeOptions normalize;
  normalize.family = style.family;
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<text::Message> messages,
                            text::normalize_messages(std::move(request), normalize));
  text::EncodeOptions encode;
  encode.family = style.family;
  encode.thinking = style.thinking;
  if (style.thinking) encode.effort = style.effort;
  CACHALOT_ASSIGN_OR_RETURN(const text::EncodedPrompt prompt, text::encode_chat(messages, encode));
  const std::vector<text::Segment> segments = prompt.views();
  return ChatPrompt{tokenizer.encode_segments(segments), prompt.ends_in_reasoning};
}

}  // namespace cachalot::apps
