// Sets of characters as masks know them: each of ASCII, and the others as one but for a few odd
// ones, which grammars single out.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <utility>

namespace cachalot::grammar {

// Line ends, spaces, and the punctuation of East Asia, the bar with which tags begin among it.
inline constexpr std::pair<uint32_t, uint32_t> kOddCharacters[] = {
    {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029},
    {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x303F}, {0xFEFF, 0xFEFF}, {0xFF00, 0xFF65}};
// Whether some, or all, of the characters that begin with these bits are odd. `num_missing`
// continuation bytes end them.
constexpr bool may_be_odd(uint32_t bits, int num_missing) {
  for (const auto& [first, last] : kOddCharacters) {
    if (first >> (6 * num_missing) <= bits && bits <= last >> (6 * num_missing)) return true;
  }
  return false;
}
constexpr bool is_odd(uint32_t bits, int num_missing) {
  const uint32_t lowest = bits << (6 * num_missing), highest = (bits + 1) << (6 * num_missing);
  for (const auto& [first, last] : kOddCharacters) {
    if (first <= lowest && highest <= last + 1) return true;
  }
  return false;
}

struct CharacterSet {
  std::array<uint64_t, 2> ascii{};
  bool others = false;  // every character beyond ASCII that is not odd

  bool operator==(const CharacterSet&) const = default;
  bool has(uint8_t c) const { return (ascii[c / 64] >> (c % 64) & 1) != 0; }
  void add(uint8_t c) { ascii[c / 64] |= uint64_t{1} << (c % 64); }
  bool is_empty() const { return (ascii[0] | ascii[1]) == 0 && !others; }
  int num_ascii() const { return std::popcount(ascii[0]) + std::popcount(ascii[1]); }

  CharacterSet without(const CharacterSet& other) const {
    return {{ascii[0] & ~other.ascii[0], ascii[1] & ~other.ascii[1]}, others && !other.others};
  }
  CharacterSet common(const CharacterSet& other) const {
    return {{ascii[0] & other.ascii[0], ascii[1] & other.ascii[1]}, others && other.others};
  }
  bool is_within(const CharacterSet& other) const { return without(other).is_empty(); }
};

}  // namespace cachalot::grammar
