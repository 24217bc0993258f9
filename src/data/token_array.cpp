#include "data/token_array.h"

#include <fmt/format.h>

#include <cstring>

#include "base/check.h"

namespace cachalot::data {
namespace {
template <typename T>
Status decode(std::span<const std::byte> bytes, int64_t vocab_size, std::string_view origin,
              int64_t first_token, std::span<int32_t> out) {
  CACHALOT_CHECK(bytes.size() / sizeof(T) >= out.size());
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    const auto id = static_cast<int64_t>(value);
    if (id < 0 || id >= vocab_size) {
      return data_loss(fmt::format("{}: token {}: expected an id in [0, {}), found {}", origin,
                                   first_token + static_cast<int64_t>(i), vocab_size, id));
    }
    out[i] = static_cast<int32_t>(id);
  }
  return {};
}
}  // namespace

int64_t token_type_bytes(TokenType type) {
  switch (type) {
    case TokenType::u8:
    case TokenType::i8: return 1;
    case TokenType::u16:
    case TokenType::i16: return 2;
    case TokenType::u32:
    case TokenType::i32: return 4;
    case TokenType::i64: return 8;
  }
  CACHALOT_CHECK(false);
}

Status decode_tokens(std::span<const std::byte> bytes, TokenType type, int64_t vocab_size,
                     std::string_view origin, int64_t first_token, std::span<int32_t> out) {
  switch (type) {
    case TokenType::u8: return decode<uint8_t>(bytes, vocab_size, origin, first_token, out);
    case TokenType::i8: return decode<int8_t>(bytes, vocab_size, origin, first_token, out);
    case TokenType::u16: return decode<uint16_t>(bytes, vocab_size, origin, first_token, out);
    case TokenType::i16: return decode<int16_t>(bytes, vocab_size, origin, first_token, out);
    case TokenType::u32: return decode<uint32_t>(bytes, vocab_size, origin, first_token, out);
    case TokenType::i32: return decode<int32_t>(bytes, vocab_size, origin, first_token, out);
    case TokenType::i64: return decode<int64_t>(bytes, vocab_size, origin, first_token, out);
  }
  CACHALOT_CHECK(false);
}

}  // namespace cachalot::data
