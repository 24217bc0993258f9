#include "api/error.h"

#include <fmt/format.h>

#include "base/python_json.h"

namespace cachalot::api {
namespace {

// "messages[2].role" of "messages[2].role: expected ...".
std::string_view leading_place(std::string_view message) {
  const size_t colon = message.find(": ");
  if (colon == std::string_view::npos || colon == 0) return {};
  const std::string_view place = message.substr(0, colon);
  for (const char c : place) {
    const bool is_word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                         (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '[' || c == ']' ||
                         c == '$' || c == '/' || c == '-';
    if (!is_word) return {};
  }
  return place;
}

std::string_view openai_type(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

std::string_view anthropic_type(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 503:
    case 529: return "overloaded_error";
    default: return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

json::value text_or_null(const std::string& text) {
  return text.empty() ? json::value(nullptr) : json::value(text);
}

}  // namespace

ErrorShape error_shape(std::string_view path) {
  return path.find("/messages") != std::string_view::npos ? ErrorShape::anthropic
                                                          : ErrorShape::openai;
}

ApiError ApiError::of(const Status& status) {
  ApiError error;
  error.message = status.message();
  switch (status.code()) {
    case StatusCode::invalid_argument:
    case StatusCode::unsupported:
      error.param = leading_place(error.message);
      error.code = status.code() == StatusCode::unsupported ? "unsupported_value" : "invalid_value";
      break;
    case StatusCode::not_found: error.status = 404; break;
    case StatusCode::resource_exhausted: error.status = 429; break;
    case StatusCode::cancelled: error.status = 499; break;
    default: error.status = 500;
  }
  return error;
}

json::value error_body(const ApiError& error, ErrorShape shape) {
  if (shape == ErrorShape::anthropic) {
    return json::object{{"type", "error"},
                        {"error", json::object{{"type", anthropic_type(error.status)},
                                               {"message", error.message}}}};
  }
  return json::object{{"error", json::object{{"message", error.message},
                                             {"type", openai_type(error.status)},
                                             {"param", text_or_null(error.param)},
                                             {"code", text_or_null(error.code)}}}};
}

HttpAnswer error_answer(const ApiError& error, ErrorShape shape) {
  HttpAnswer answer;
  answer.status = error.status;
  answer.body = python_json(error_body(error, shape));
  if (error.status == 429) answer.headers.push_back({"Retry-After", "1"});
  return answer;
}

HttpAnswer error_answer(const Status& status, ErrorShape shape) {
  return error_answer(ApiError::of(status), shape);
}

void add_request_id(HttpAnswer& answer, std::string_view id, ErrorShape shape) {
  if (shape != ErrorShape::anthropic || answer.status < 400) return;
  auto body = parse_json(answer.body, "error");
  if (!body || !body->is_object()) return;
  body->get_object()["request_id"] = id;
  answer.body = python_json(*body);
}

ApiError context_overflow(int64_t prompt_tokens, int64_t context_tokens, std::string_view param,
                          ErrorShape shape) {
  ApiError error;
  error.param = param;
  error.code = "context_length_exceeded";
  error.message =
      shape == ErrorShape::anthropic
          ? fmt::format("prompt is too long: {} tokens > {} maximum", prompt_tokens, context_tokens)
          : fmt::format(
                "This model's maximum context length is {} tokens. However, your {} resulted in {} "
                "tokens, which leaves no room for an answer. Please reduce the length of the {}.",
                context_tokens, param, prompt_tokens, param);
  return error;
}

}  // namespace cachalot::api
