// The character class of every code point, as the pre-tokenizer's three patterns divide them
// (reference/chat 1.2). The tables are generated (tools/make_unicode_tables.py) and pinned to
// Unicode 16.0, the version inside PyPI tokenizers 0.23.3: the Unicode version is part of the
// tokenizer, since a later letter splits text differently.
#pragma once

#include <cstdint>

namespace cachalot::text {

enum CharClass : uint8_t {
  kOther = 0,      // control, format, unassigned, and bytes that are not UTF-8
  kLetter = 1,     // \p{L} or \p{M}
  kPunct = 2,      // \p{P} or \p{S}
  kSpace = 3,      // \s without CR and LF
  kNewline = 4,    // CR, LF
  kNumber = 5,     // \p{N}
  kCjkLetter = 6,  // the same three inside the ranges of pattern 2
  kCjkPunct = 7,
  kCjkOther = 8,
};

inline constexpr uint32_t kUnicodeBlock = 128;
extern const uint8_t kUnicodeBlockIndex[8704];  // by code point / 128
extern const uint8_t kUnicodeBlocks[30720];     // the first 128 entries are ASCII

// code_point < 0x110000.
inline CharClass char_class(uint32_t code_point) {
  const uint32_t block = kUnicodeBlockIndex[code_point / kUnicodeBlock];
  return static_cast<CharClass>(kUnicodeBlocks[block * kUnicodeBlock + code_point % kUnicodeBlock]);
}

}  // namespace cachalot::text
