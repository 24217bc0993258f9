// Sets of characters as masks know them: each of ASCII, and the others in groups, but for a few odd
// ones, which grammars single out.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <iterator>
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

// The first code points of the groups: what classes of characters tend to name, and parts of the
// ideographs and of Hangul, since classes cut those anywhere.
inline constexpr uint32_t kGroupStarts[] = {
    0x80,   0xC0,   0xD7,   0xD8,   0xF7,   0xF8,    0x100,   0x180,   0x250,  0x370,  0x400,
    0x401,  0x402,  0x410,  0x430,  0x450,  0x451,   0x452,   0x500,   0x590,  0x600,  0x700,
    0x900,  0x980,  0xE00,  0xE80,  0x1100, 0x1200,  0x1E00,  0x1F00,  0x2000, 0x2010, 0x2020,
    0x20A0, 0x2100, 0x2190, 0x2500, 0x2E80, 0x3040,  0x30A0,  0x3100,  0x3400, 0x4DC0, 0x4E00,
    0x5000, 0x6000, 0x7000, 0x8000, 0x9000, 0x9FA6,  0xA000,  0xAC00,  0xB000, 0xC000, 0xD000,
    0xD7A4, 0xE000, 0xF900, 0xFB00, 0xFF66, 0x10000, 0x1F000, 0x20000, 0x30000};
inline constexpr size_t kNumGroups = std::size(kGroupStarts);
static_assert(kNumGroups <= 64);
// The groups, as bits, of the characters that are not odd and begin with these bits;
// `num_missing` continuation bytes end them.
constexpr uint64_t groups_of(uint32_t bits, int num_missing) {
  // What is shorter in UTF-8 does not begin so.
  constexpr uint32_t kLowest[] = {0x80, 0x80, 0x800, 0x10000};
  uint32_t first = std::max(bits << (6 * num_missing), bits == 0 ? kLowest[num_missing] : 0);
  const uint32_t last = ((bits + 1) << (6 * num_missing)) - 1;
  auto group = static_cast<size_t>(std::ranges::upper_bound(kGroupStarts, first) - kGroupStarts);
  uint64_t groups = 0;
  for (; first <= last; ++group) {
    const uint32_t end = group < kNumGroups ? kGroupStarts[group] : UINT32_MAX;
    for (const auto& [odd, last_odd] : kOddCharacters) {
      if (odd <= first && first <= last_odd) first = last_odd + 1;
    }
    if (first < end && first <= last) groups |= uint64_t{1} << (group - 1);
    if (end > last) break;
    first = std::max(first, end);
  }
  return groups;
}

struct CharacterSet {
  std::array<uint64_t, 2> ascii{};
  uint64_t groups = 0;

  bool operator==(const CharacterSet&) const = default;
  bool has(uint8_t c) const { return (ascii[c / 64] >> (c % 64) & 1) != 0; }
  void add(uint8_t c) { ascii[c / 64] |= uint64_t{1} << (c % 64); }
  void add(const CharacterSet& other) {
    ascii[0] |= other.ascii[0];
    ascii[1] |= other.ascii[1];
    groups |= other.groups;
  }
  bool is_empty() const { return (ascii[0] | ascii[1] | groups) == 0; }
  int num_ascii() const { return std::popcount(ascii[0]) + std::popcount(ascii[1]); }

  CharacterSet without(const CharacterSet& other) const {
    return {{ascii[0] & ~other.ascii[0], ascii[1] & ~other.ascii[1]}, groups & ~other.groups};
  }
  CharacterSet common(const CharacterSet& other) const {
    return {{ascii[0] & other.ascii[0], ascii[1] & other.ascii[1]}, groups & other.groups};
  }
  bool is_within(const CharacterSet& other) const { return without(other).is_empty(); }
};

}  // namespace cachalot::grammar
