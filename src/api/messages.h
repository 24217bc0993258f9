// POST /v1/messages and /v1/messages/count_tokens: Anthropic's API.
// Source  reference/chat 2.13, 5.5, 6.2.
//
// System text inside messages stays where it is. The line "x-anthropic-billing-header: ..." at the
// front of a system prompt, which changes with every request, is no part of the prompt. Thinking
// that a client does not want to see travels in the block's signature, and comes back with it.
#pragma once

#include "api/chat_ask.h"
#include "api/router.h"

namespace cachalot::api {

Routed messages(const HttpRequest& request, const ServedModel& model);
Routed count_message_tokens(const HttpRequest& request, const ServedModel& model);

struct MessagesAsk {
  ChatAsk chat;
  bool omits_thinking = false;  // thinking.display: "omitted"
};
Result<MessagesAsk> read_messages(const json::object& body, const ServedModel& model,
                                  bool thinks_otherwise);

// A thinking block's signature: with its text, where the block itself has none.
std::string thinking_signature(std::string_view id, std::string_view hidden_text);
// The text that a signature carries; empty where it is not one of these.
std::string hidden_thinking(std::string_view signature);

}  // namespace cachalot::api
