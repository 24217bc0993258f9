// Token ids as a file holds them: little-endian integers of some width, at any alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/status.h"

namespace cachalot::data {

enum class TokenType { u8, i8, u16, i16, u32, i32, i64 };

int64_t token_type_bytes(TokenType type);

// Decodes out.size() tokens from the start of `bytes`, which must hold them. An id outside [0,
// vocab_size) is data_loss: `origin` and `first_token`, the place of the first one in its file, go
// into the message.
Status decode_tokens(std::span<const std::byte> bytes, TokenType type, int64_t vocab_size,
                     std::string_view origin, int64_t first_token, std::span<int32_t> out);

}  // namespace cachalot::data
