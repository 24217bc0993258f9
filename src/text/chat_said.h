// A conversation as a prompt that knows what in it the assistant said: what a model learns to say.
// Source  reference/chat 2, reference/post-training 2.1, 5.2.
#pragma once

#include <vector>

#include "text/chat_encoding.h"

namespace cachalot::text {

// Segments [begin, end) of a prompt that are what the assistant said in messages[message]:
// reasoning and its closing token, text, calls, the end of the turn; not the header before them.
struct SaidSegments {
  size_t begin = 0;
  size_t end = 0;
  size_t message = 0;
};

struct SaidPrompt {
  EncodedPrompt prompt;
  // In prompt order. Each begins behind a control token: text right behind other text is not in it.
  std::vector<SaidSegments> said;
  // Reasoning of earlier turns is left out (drop_thinking, and no tools).
  bool drops_reasoning = false;
};

// As encode_chat().
Result<SaidPrompt> encode_said(const std::vector<Message>& messages, const EncodeOptions& options);

}  // namespace cachalot::text
