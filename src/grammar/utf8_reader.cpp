#include "grammar/utf8_reader.h"

namespace cachalot::grammar {

std::optional<uint32_t> Utf8Reader::next() {
  if (at_end()) return std::nullopt;
  const auto byte = [this](size_t i) { return static_cast<uint8_t>(peek(i)); };
  const uint8_t lead = byte(0);
  const size_t length = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  if (length == 0 || lead > 0xF4 || at_ + length > text_.size()) return std::nullopt;
  uint32_t code_point = length == 1 ? lead : lead & (0xFFu >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return std::nullopt;
    code_point = code_point << 6 | (byte(i) & 0x3F);
  }
  constexpr uint32_t kLowest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (code_point < kLowest[length] || code_point > 0x10FFFF) return std::nullopt;
  if (code_point >= 0xD800 && code_point <= 0xDFFF) return std::nullopt;
  at_ += length;
  return code_point;
}

}  // namespace cachalot::grammar
