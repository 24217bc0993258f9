#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace cachalot::text {
namespace {

constexpr std::string_view kFffd = "\uFFFD";

std::string whole(std::string_view bytes) {
  Utf8Stream stream;
  std::string text;
  stream.push(bytes, text);
  stream.finish(text);
  return text;
}

std::string times(int n) {
  std::string text;
  while (n-- > 0) text += kFffd;
  return text;
}

TEST(Utf8Stream, ValidTextPassesUnchanged) {
  // The first and last code point of each length, and the neighbours of the surrogates.
  const std::string text("\0\x7F\u0080\u07FF\u0800\uD7FF\uE000\uFFFF\U00010000\U0010FFFF", 26);
  EXPECT_EQ(whole(text), text);
}

// Unicode 16.0, section 3.9, tables 3-8 to 3-11: one U+FFFD for each maximal part.
TEST(Utf8Stream, EachMaximalPartOfABrokenCharacterBecomesOneReplacement) {
  EXPECT_EQ(whole("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), times(8) + "A");
  EXPECT_EQ(whole("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), times(8) + "A");
  EXPECT_EQ(whole("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), times(5) + "A" + times(2) + "B");
  EXPECT_EQ(whole("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), times(4) + "A");
}

TEST(Utf8Stream, HoldsNoMoreThanACharacterThatHasBegun) {
  Utf8Stream stream;
  std::string text;
  stream.push("a\xF0\x9F\x99", text);
  EXPECT_EQ(text, "a");
  EXPECT_EQ(stream.pending(), "\xF0\x9F\x99");
  stream.push("\x82", text);
  EXPECT_EQ(text, "a🙂");
  EXPECT_EQ(stream.pending(), "");
  stream.push("\xE4\xB8", text);
  stream.push("x", text);  // can no longer become a character
  EXPECT_EQ(text, "a🙂\uFFFDx");
  stream.push("\xE4", text);
  stream.finish(text);
  EXPECT_EQ(text, "a🙂\uFFFDx\uFFFD");
  text.clear();
  stream.push("\xB8\xAD中", text);  // what finish() ended does not come back
  EXPECT_EQ(text, "\uFFFD\uFFFD中");
}

// The text does not depend on the cuts, and every part of it is whole characters.
TEST(Utf8Stream, TextIsTheSameForEveryCut) {
  uint64_t state = 7;
  const auto next = [&] {
    return state = state * 6364136223846793005u + 1442695040888963407u,
           static_cast<uint32_t>(state >> 40);
  };
  constexpr unsigned char kBytes[] = {0x41, 0x80, 0xBF, 0xC2, 0xE0, 0xA0, 0x9F, 0xED,
                                      0xE4, 0xB8, 0xAD, 0xF0, 0x90, 0xF4, 0x8F, 0xFF};
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (uint32_t n = next() % 12; n > 0; --n) bytes += static_cast<char>(kBytes[next() % 16]);
    const std::string expected = whole(bytes);
    EXPECT_EQ(whole(expected), expected);  // valid
    for (size_t cut = 0; cut <= bytes.size(); ++cut) {
      Utf8Stream stream;
      std::string head, text;
      stream.push(std::string_view(bytes).substr(0, cut), text);
      EXPECT_EQ(whole(text), text);
      EXPECT_LE(stream.pending().size(), 3u);
      stream.push(std::string_view(bytes).substr(cut), text);
      stream.finish(text);
      ASSERT_EQ(text, expected);
    }
  }
}

}  // namespace
}  // namespace cachalot::text
