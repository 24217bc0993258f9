#include "api/logprob_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/dsml_arguments.h"

namespace cachalot::api {
namespace {

std::string_view bytes_of(const text::Tokenizer& tokenizer, int32_t token) {
  const auto bytes = tokenizer.token_bytes(token);
  return bytes ? *bytes : std::string_view();
}

json::object one(const text::Tokenizer& tokenizer, int32_t token, double logprob) {
  json::array bytes;
  for (const char c : bytes_of(tokenizer, token)) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", token_text(tokenizer, token)},
          {"logprob", shown_logprob(logprob)},
          {"bytes", std::move(bytes)}};
}

}  // namespace

double shown_logprob(double logprob) { return std::max(logprob, -9999.0); }

std::string token_text(const text::Tokenizer& tokenizer, int32_t token) {
  return text::valid_utf8(bytes_of(tokenizer, token));
}

std::string token_key(const text::Tokenizer& tokenizer, int32_t token) {
  const std::string_view bytes = bytes_of(tokenizer, token);
  std::string text = text::valid_utf8(bytes);
  if (text == bytes) return text;
  text = "bytes:";
  for (const char c : bytes) text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return text;
}

json::object chat_logprob(const text::Tokenizer& tokenizer, int32_t token, double logprob,
                          std::span<const ops::TokenLogprob> top) {
  json::object out = one(tokenizer, token, logprob);
  json::array likeliest;
  for (const ops::TokenLogprob& other : top) {
    if (other.id >= 0) likeliest.push_back(one(tokenizer, other.id, other.logprob));
  }
  out["top_logprobs"] = std::move(likeliest);
  return out;
}

}  // namespace cachalot::api
