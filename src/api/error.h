// Errors as clients know them (reference/chat 5.5, 5.7).
#pragma once

#include <string>
#include <string_view>

#include "api/http_message.h"
#include "base/json.h"
#include "base/status.h"

namespace cachalot::api {

enum class ErrorShape { openai, anthropic };
// That of the path's API.
ErrorShape error_shape(std::string_view path);

struct ApiError {
  int status = 400;
  std::string message;
  std::string param;  // the field at fault; empty: none
  std::string code;   // empty: none

  // invalid_argument and unsupported: 400; not_found: 404; resource_exhausted: 429, to be tried
  // again; cancelled: 499; others: 500. The message's beginning, "messages[2].role: ...", is the
  // param.
  static ApiError of(const Status& status);
};

// {"error": {...}} or {"type": "error", "error": {...}}.
json::value error_body(const ApiError& error, ErrorShape shape);
HttpAnswer error_answer(const ApiError& error, ErrorShape shape);
HttpAnswer error_answer(const Status& status, ErrorShape shape);
// Where the shape has a place for it: Anthropic's.
void add_request_id(HttpAnswer& answer, std::string_view id, ErrorShape shape);

// The prompt leaves no room for an answer: in the words that agents react to, with both numbers.
ApiError context_overflow(int64_t prompt_tokens, int64_t context_tokens, std::string_view param,
                          ErrorShape shape);

}  // namespace cachalot::api
