#include "data/split_text.h"

#include <gtest/gtest.h>

#include <string>

namespace cachalot::data {
namespace {

using Pieces = std::vector<std::string_view>;

TEST(SplitText, ShortTextsStayWhole) {
  EXPECT_EQ(split_text("", 8), Pieces{});
  EXPECT_EQ(split_text("12345678", 8), Pieces{"12345678"});
}

TEST(SplitText, CutsAtABlankLineBeforeALine) {
  EXPECT_EQ(split_text("aaaa\n\nbb\ncc", 10), (Pieces{"aaaa\n\n", "bb\ncc"}));
  // The blank line lies before the middle: the piece would be too short.
  EXPECT_EQ(split_text("a\n\nbbbb\ncccc", 10), (Pieces{"a\n\nbbbb\n", "cccc"}));
}

TEST(SplitText, NeverCutsACharacterAndLosesNothing) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += i % 3 == 0 ? "字" : i % 3 == 1 ? "\U0001F40B" : "x";
  for (size_t limit = 4; limit < 30; ++limit) {
    std::string joined;
    for (const std::string_view piece : split_text(text, limit)) {
      ASSERT_FALSE(piece.empty());
      EXPECT_LE(piece.size(), limit);
      EXPECT_NE(static_cast<unsigned char>(piece[0]) & 0xC0, 0x80) << limit;
      joined += piece;
    }
    EXPECT_EQ(joined, text);
  }
}

TEST(SplitText, BytesThatAreNoTextAreCutSomewhere) {
  const std::string text(100, '\x80');
  size_t total = 0;
  for (const std::string_view piece : split_text(text, 10)) total += piece.size();
  EXPECT_EQ(total, text.size());
}

}  // namespace
}  // namespace cachalot::data
