// POST /v1/completions: a text, or token ids, and what follows it.
// Source  reference/chat 2.11, 5.2, 6.4; OpenAI's form of echo and logprobs.
#pragma once

#include "api/router.h"

namespace cachalot::api {

// A prompt of text gets the model's BOS where it has none; one of ids stays as it is. With
// `suffix`, the middle is asked for (400 where the tokenizer has no tokens for it).
Routed completions(const HttpRequest& request, const ServedModel& model);

}  // namespace cachalot::api
