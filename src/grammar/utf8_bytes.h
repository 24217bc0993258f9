// UTF-8 byte by byte.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace cachalot::grammar {

// How many bytes it has.
inline size_t encode_utf8(uint32_t code_point, std::array<uint8_t, 4>& out) {
  if (code_point < 0x80) {
    out[0] = static_cast<uint8_t>(code_point);
    return 1;
  }
  const size_t length = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
  constexpr std::array<uint32_t, 5> kLead = {0, 0, 0xC0, 0xE0, 0xF0};
  for (size_t i = length - 1; i > 0; --i, code_point >>= 6)
    out[i] = static_cast<uint8_t>(0x80 | (code_point & 0x3F));
  out[0] = static_cast<uint8_t>(kLead[length] | code_point);
  return length;
}

// Where a reader is.
struct Utf8Place {
  int missing = 0;    // bytes of the character that is under way
  uint32_t bits = 0;  // of it, or of the last one beyond ASCII
  uint8_t first = 0x80, last = 0xBF;

  // False where the byte can not come here; then nothing has changed.
  bool take(uint8_t byte) {
    if (missing > 0) {
      if (byte < first || byte > last) return false;
      --missing;
      bits = bits << 6 | (byte & 0x3Fu);
      first = 0x80;
      last = 0xBF;
      return true;
    }
    if (byte < 0x80) return true;
    if (byte < 0xC2 || byte > 0xF4) return false;
    missing = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
    bits = byte & (0x3Fu >> missing);
    if (byte == 0xE0) first = 0xA0;
    if (byte == 0xED) last = 0x9F;  // no surrogates
    if (byte == 0xF0) first = 0x90;
    if (byte == 0xF4) last = 0x8F;
    return true;
  }
};

}  // namespace cachalot::grammar
