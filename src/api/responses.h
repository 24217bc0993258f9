// POST /v1/responses: OpenAI's Responses, without a store.
// Source  reference/chat 5.6, 6.1.
//
// What needs a store (previous_response_id, conversation, item_reference, background) is refused by
// name: history that is left out silently is worse. Reasoning comes as text, or as its own summary
// where a summary is asked for; asked for encrypted_content, an item carries its text there too.
#pragma once

#include "api/chat_ask.h"
#include "api/router.h"

namespace cachalot::api {

Routed responses(const HttpRequest& request, const ServedModel& model);

struct ResponsesAsk {
  ChatAsk chat;
  bool summarises = false;  // reasoning.summary
  bool encrypts = false;    // include: reasoning.encrypted_content
  bool tells_logprobs = false;
};
Result<ResponsesAsk> read_responses(const json::object& body, const ServedModel& model,
                                    bool thinks_otherwise);

}  // namespace cachalot::api
