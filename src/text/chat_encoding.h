// Prompts of the three DeepSeek-V4 families from messages, exactly as the reference encoders write
// them (reference/chat 2; v4.1 also checked against its published cases). What clients send needs
// normalize_messages first (chat_normalize.h): the encoder reproduces the reference, its traps
// included.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/chat_message.h"
#include "text/chat_segments.h"
#include "text/tokenizer.h"

namespace cachalot::text {

struct ReasoningEffort {
  enum class Level { unset, low, high, max, budget };
  Level level = Level::unset;
  int budget = 0;  // 1..100, with Level::budget: v4.1 only
};

// "", "low", "high", "max", or a number from 1 to 100.
Result<ReasoningEffort> parse_reasoning_effort(std::string_view text);

// What a client's effort name means for a family (reference/chat 5.2): none turns thinking off;
// minimal and low give low (high in v4, which has no low); medium, high, xhigh and nothing at all
// give high; max and ultra give max.
struct ClientEffort {
  bool thinking = true;
  ReasoningEffort effort = {};
};
Result<ClientEffort> resolve_client_effort(std::string_view name, PromptFamily family);

struct EncodeOptions {
  PromptFamily family = PromptFamily::v4;
  bool thinking = true;
  // Only with thinking. Which levels a family knows and what unset means: reference/chat 2.4, 2.12.
  ReasoningEffort effort = {};
  // Reasoning of earlier turns is left out, unless a message carries tools.
  bool drop_thinking = true;
  bool add_bos = true;
  // The first so many messages are a prefix that was encoded before: neither they nor BOS are
  // written.
  size_t num_context_messages = 0;
};

struct EncodedPrompt {
  std::vector<PromptSegment> segments;
  std::vector<std::string> images;  // sources of the image placeholders, in prompt order
  // The completion begins inside a reasoning block: the initial state of its parser.
  bool ends_in_reasoning = false;

  // The whole prompt as one string: for Tokenizer::encode (parity mode).
  std::string flat() const;
  // For Tokenizer::encode_segments (safe mode); valid as long as the prompt.
  std::vector<Segment> views() const;
};

// Errors   invalid_argument for what the reference refuses: an effort the family does not know, an
//          unknown task, an empty developer message, content lists outside tool results (v4,
//          v4-0731), an image placeholder in text (v4.1).
Result<EncodedPrompt> encode_chat(const std::vector<Message>& messages,
                                  const EncodeOptions& options);

// Fill-in-the-middle: the completion stands between prefix and suffix (reference/chat 2.11).
EncodedPrompt encode_fim(std::string_view prefix, std::string_view suffix);

// A raw completion: the prompt as it is, after BOS unless it begins with one (which then is a
// control token).
EncodedPrompt encode_raw(std::string_view prompt);

}  // namespace cachalot::text
