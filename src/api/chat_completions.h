// POST /v1/chat/completions.
// Source  reference/chat 5.2, 5.3, 5.4, 6.
//
// Log-probabilities are those of every token of the answer, reasoning and markup included, as the
// model itself gives them. A conversation that ends in an assistant message goes on from there.
// max_tokens beyond what the context leaves is that; a prompt is never cut.
#pragma once

#include "api/chat_ask.h"
#include "api/router.h"

namespace cachalot::api {

Routed chat_completions(const HttpRequest& request, const ServedModel& model);

// The conversation of such a body, for those who count its tokens. Errors as the call's.
Result<ChatAsk> read_chat(json::object& body, const ServedModel& model, bool thinks_otherwise);

}  // namespace cachalot::api
