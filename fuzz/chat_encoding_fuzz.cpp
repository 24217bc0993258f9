// libFuzzer target: any JSON as a chat request, normalised and encoded. The first byte chooses
// family, mode and policies; the rest is the request. A prompt that comes out has well-formed
// segments, and encodes the same twice.
#include <cstdint>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "text/chat_encoding.h"
#include "text/chat_normalize.h"

namespace {
using namespace cachalot;
using namespace cachalot::text;

constexpr PromptFamily kFamilies[] = {PromptFamily::v4, PromptFamily::v4_0731, PromptFamily::v4_1,
                                      PromptFamily::v4_1};

void check(const EncodedPrompt& prompt) {
  size_t num_placeholders = 0;
  bool after_text = false;
  for (const PromptSegment& segment : prompt.segments) {
    CACHALOT_CHECK(!segment.text.empty());
    const bool is_text = segment.kind == PromptSegment::Kind::text;
    CACHALOT_CHECK(!(is_text && after_text));
    after_text = is_text;
    if (!is_text && segment.text == "<｜deepseek_image｜>") ++num_placeholders;
  }
  CACHALOT_CHECK(num_placeholders == prompt.images.size());
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const uint8_t choice = data[0];
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto json_request = parse_json(text, "request");
  if (!json_request.has_value()) return 0;
  const auto request = parse_chat_request(*json_request);
  if (!request.has_value()) return 0;

  EncodeOptions options;
  options.family = kFamilies[choice & 3];
  options.thinking = (choice & 4) != 0;
  options.drop_thinking = (choice & 8) != 0;
  const auto encode = [&options](const std::vector<Message>& messages) {
    const auto prompt = encode_chat(messages, options);
    if (!prompt.has_value()) return;
    check(*prompt);
    const auto again = encode_chat(messages, options);
    CACHALOT_CHECK(again.has_value() && again->segments == prompt->segments);
  };
  encode(request->messages);

  NormalizeOptions normalize;
  normalize.family = options.family;
  if ((choice & 16) != 0)
    normalize.unsupported_parts = NormalizeOptions::UnsupportedParts::placeholder;
  if ((choice & 32) != 0)
    normalize.trailing_assistant = NormalizeOptions::TrailingAssistant::continue_it;
  if ((choice & 64) != 0) normalize.developer = NormalizeOptions::Developer::keep;
  normalize.check_tool_ids = (choice & 128) != 0;
  normalize.neutralise_tool_results = true;
  const auto messages = normalize_messages(*request, normalize);
  if (messages.has_value()) encode(*messages);
  return 0;
}
