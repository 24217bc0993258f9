// The first lines of an answer as bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "server/access.h"

namespace cachalot::server {

struct AnswerHead {
  int status = 200;
  std::string_view content_type;  // empty: none
  std::optional<int64_t> length;  // none: in chunks, or up to the connection's end
  bool is_chunked = false;
  bool keeps_alive = true;
};

// Control characters in values, which would end them, become question marks.
std::string head_bytes(const AnswerHead& head, const Headers& headers);

// One piece of a chunked body; nothing for no bytes, since that would end it.
std::string chunk(std::string_view bytes);
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

}  // namespace cachalot::server
