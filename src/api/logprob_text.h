// Tokens with log-probabilities, as the two APIs that tell them show them.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/json.h"
#include "ops/sampling/sampling.h"
#include "text/tokenizer.h"

namespace cachalot::api {

// JSON has no infinity: what is impossible is shown as -9999.0 (reference/chat 1.5).
double shown_logprob(double logprob);

// Its bytes, where they are no UTF-8 with U+FFFD.
std::string token_text(const text::Tokenizer& tokenizer, int32_t token);
// Tells tokens apart: where its bytes are no UTF-8, "bytes:\xe2\x80".
std::string token_key(const text::Tokenizer& tokenizer, int32_t token);

// {"token", "logprob", "bytes", "top_logprobs"}.
json::object chat_logprob(const text::Tokenizer& tokenizer, int32_t token, double logprob,
                          std::span<const ops::TokenLogprob> top);

}  // namespace cachalot::api
