// GPT-2's byte alphabet: the printable bytes of Latin-1 stand for themselves, the other 68 for
// U+0100, U+0101, ... in order.
// Threads  immutable.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace cachalot::text {

class ByteAlphabet {
 public:
  ByteAlphabet();
  // nullopt if a character is not in the alphabet. `symbols` is UTF-8.
  std::optional<std::string> decode(std::string_view symbols) const;
  std::string encode(std::string_view bytes) const;  // UTF-8
  // All 256 bytes by the code points that spell them.
  std::vector<uint8_t> in_order() const;

 private:
  std::array<int16_t, 0x144> bytes_{};       // by code point; -1: none
  std::array<uint16_t, 256> code_points_{};  // by byte
};

}  // namespace cachalot::text
