#include "text/pre_tokenizer.h"

#include <cstdint>

#include "text/unicode_tables.h"

namespace cachalot::text {
namespace {

struct Character {
  uint8_t length;  // bytes; 0 at the end of the text
  uint8_t kind;    // CharClass; kEnd at the end of the text
};
constexpr uint8_t kEnd = 255;

bool continues(unsigned char byte) { return (byte & 0xC0) == 0x80; }

Character read_multibyte(const unsigned char* p, const unsigned char* end) {
  const unsigned char first = *p;
  const auto available = end - p;
  if (first >= 0xE0 && first < 0xF0 && available >= 3 && continues(p[1]) && continues(p[2])) {
    const uint32_t c = (first & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    if (c >= 0x800 && (c < 0xD800 || c > 0xDFFF)) return {3, char_class(c)};
  } else if (first >= 0xC2 && first < 0xE0 && available >= 2 && continues(p[1])) {
    return {2, char_class((first & 0x1Fu) << 6 | (p[1] & 0x3Fu))};
  } else if (first >= 0xF0 && first < 0xF5 && available >= 4 && continues(p[1]) &&
             continues(p[2]) && continues(p[3])) {
    const uint32_t c =
        (first & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
    if (c >= 0x10000 && c < 0x110000) return {4, char_class(c)};
  }
  return {1, kOther};
}

Character read(const char* at, const char* end) {
  if (at == end) return {0, kEnd};
  const auto* p = reinterpret_cast<const unsigned char*>(at);
  if (*p < 0x80) return {1, kUnicodeBlocks[*p]};
  return read_multibyte(p, reinterpret_cast<const unsigned char*>(end));
}

template <uint8_t kKind>
const char* skip(const char* p, const char* end) {
  for (;;) {
    const Character c = read(p, end);
    if (c.kind != kKind) return p;
    p += c.length;
  }
}

bool is_ascii_letter(const char* p, const char* end) {
  return p != end && static_cast<unsigned char>((*p | 0x20) - 'a') < 26;
}

// Characters that pattern 3 matches nowhere stay together, up to the first that may lead a run of
// letters.
template <uint8_t kLetterKind, uint8_t kOtherKind>
const char* other_piece(const char* p, const char* end) {
  Character next = read(p, end);
  if (next.kind == kLetterKind) return skip<kLetterKind>(p, end);
  while (next.kind == kOtherKind) {
    const Character after = read(p + next.length, end);
    if (after.kind == kLetterKind) break;
    p += next.length;
    next = after;
  }
  return p;
}

// Begins at white space, CR and LF included.
const char* space_piece(const char* begin, Character first, const char* end) {
  const char* p = begin + first.length;
  if (first.kind == kSpace) {
    const Character next = read(p, end);
    if (next.kind == kLetter) return skip<kLetter>(p, end);
    if (next.kind == kPunct && *begin == ' ') {
      return skip<kNewline>(skip<kPunct>(p, end), end);
    }
  }
  const char* after_newline = first.kind == kNewline ? p : nullptr;
  const char* last = begin;  // the last character of the run
  Character c = read(p, end);
  while (c.kind == kSpace || c.kind == kNewline) {
    last = p;
    p += c.length;
    if (c.kind == kNewline) after_newline = p;
    c = read(p, end);
  }
  if (after_newline != nullptr) return after_newline;
  // \s+(?!\S) looks no further than its own piece, which a digit or a CJK character ends as the
  // text does.
  const bool visible_follows = c.kind == kLetter || c.kind == kPunct || c.kind == kOther;
  return visible_follows && last != begin ? last : p;
}

}  // namespace

const char* next_piece(const char* begin, const char* end) {
  const Character first = read(begin, end);
  const char* p = begin + first.length;
  switch (first.kind) {
    case kLetter: return skip<kLetter>(p, end);
    case kPunct:
      if (first.length == 1 && is_ascii_letter(p, end)) {
        while (is_ascii_letter(p, end)) ++p;
        return p;
      }
      return skip<kNewline>(skip<kPunct>(p, end), end);
    case kSpace:
    case kNewline: return space_piece(begin, first, end);
    case kNumber:
      for (int count = 1; count < 3; ++count) {
        const Character c = read(p, end);
        if (c.kind != kNumber) break;
        p += c.length;
      }
      return p;
    case kCjkLetter: return skip<kCjkLetter>(p, end);
    case kCjkPunct: return skip<kCjkPunct>(p, end);
    case kCjkOther: return other_piece<kCjkLetter, kCjkOther>(p, end);
    default: return other_piece<kLetter, kOther>(p, end);
  }
}

}  // namespace cachalot::text
