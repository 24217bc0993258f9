#include <array>
#include <cstdint>

#include "api/messages.h"

namespace cachalot::api {
namespace {

constexpr std::string_view kCarries = "thinking1-";
constexpr std::string_view kDigits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

}  // namespace

// Base64 with the URL alphabet, without padding.
std::string thinking_signature(std::string_view id, std::string_view hidden_text) {
  if (hidden_text.empty()) return std::string(id);
  std::string out(kCarries);
  uint32_t bits = 0;
  int num_bits = 0;
  for (const char c : hidden_text) {
    bits = (bits << 8) | static_cast<unsigned char>(c);
    num_bits += 8;
    for (; num_bits >= 6; num_bits -= 6) out += kDigits[(bits >> (num_bits - 6)) & 63];
  }
  if (num_bits > 0) out += kDigits[(bits << (6 - num_bits)) & 63];
  return out;
}

std::string hidden_thinking(std::string_view signature) {
  if (!signature.starts_with(kCarries)) return {};
  std::string out;
  uint32_t bits = 0;
  int num_bits = 0;
  for (const char c : signature.substr(kCarries.size())) {
    const size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) return {};
    bits = (bits << 6) | static_cast<uint32_t>(digit);
    num_bits += 6;
    if (num_bits < 8) continue;
    num_bits -= 8;
    out += static_cast<char>((bits >> num_bits) & 255);
  }
  return out;
}

}  // namespace cachalot::api
