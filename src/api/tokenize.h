// POST /tokenize and /detokenize, in the forms of vLLM and of llama.cpp's server.
// Source  reference/chat 5.9.
//
// What /tokenize gives for a prompt or for messages is the prompt of a call with the same fields,
// token for token.
#pragma once

#include "api/router.h"

namespace cachalot::api {

Routed tokenize(const HttpRequest& request, const ServedModel& model);
Routed detokenize(const HttpRequest& request, const ServedModel& model);

}  // namespace cachalot::api
