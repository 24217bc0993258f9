// The pre-tokenizer beside Oniguruma, on every code point and on random text. Debian's 6.9.8 knows
// Unicode 14, so that code points it does not assign are left out here.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "text/pre_tokenizer.h"
#include "text/unicode_tables.h"
#include "tokenizer/oniguruma_regex.h"

namespace cachalot::text {
namespace {

std::string utf8(uint32_t c) {
  const auto tail = [](uint32_t bits) { return static_cast<char>(0x80 | (bits & 0x3F)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xC0 | c >> 6), tail(c)};
  if (c < 0x10000) return {static_cast<char>(0xE0 | c >> 12), tail(c >> 6), tail(c)};
  return {static_cast<char>(0xF0 | c >> 18), tail(c >> 12), tail(c >> 6), tail(c)};
}

std::vector<std::string> oracle_pieces(std::array<OnigurumaRegex, 3>& steps,
                                       const std::string& text) {
  std::vector<std::string> pieces = {text};
  for (OnigurumaRegex& step : steps) {
    std::vector<std::string> next;
    for (const std::string& piece : pieces) step.split(piece, next);
    pieces = std::move(next);
  }
  return pieces;
}

std::vector<std::string> our_pieces(std::string_view text) {
  std::vector<std::string> pieces;
  const char* const end = text.data() + text.size();
  for (const char* p = text.data(); p != end;) {
    const char* const piece_end = next_piece(p, end);
    if (piece_end <= p || piece_end > end) {
      ADD_FAILURE() << "no progress";
      break;
    }
    pieces.emplace_back(p, piece_end);
    p = piece_end;
  }
  return pieces;
}

// Every code point that the machine's Oniguruma knows (6.9.8: Unicode 14) has the class that it
// says.
TEST(PreTokenizerOracle, ClassesAgreeWithOniguruma) {
  const std::pair<const char*, std::vector<CharClass>> kSets[] = {
      {"\\p{N}", {kNumber}},
      {"[\\p{L}\\p{M}]", {kLetter, kCjkLetter}},
      {"[\\p{P}\\p{S}]", {kPunct, kCjkPunct}},
      {"\\s", {kSpace, kNewline}},
      {"[\r\n]", {kNewline}},
      {"[一-龥぀-ゟ゠-ヿ]", {kCjkLetter, kCjkPunct, kCjkOther}},
  };
  OnigurumaRegex unassigned("\\p{Cn}");
  size_t num_classified = 0;
  std::vector<uint32_t> assigned;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    if (!unassigned.search(utf8(c)).has_value()) assigned.push_back(c);
  }
  EXPECT_GT(assigned.size(), 280000u);
  for (const auto& [pattern, classes] : kSets) {
    OnigurumaRegex regex(pattern);
    for (const uint32_t c : assigned) {
      const bool ours = std::find(classes.begin(), classes.end(), char_class(c)) != classes.end();
      ASSERT_EQ(ours, regex.search(utf8(c)).has_value()) << pattern << " U+" << std::hex << c;
      num_classified += ours;
    }
  }
  EXPECT_GT(num_classified, 140000u);
}

TEST(PreTokenizerOracle, RandomTextSplitsAsOnigurumaSplitsIt) {
  std::array<OnigurumaRegex, 3> steps = {OnigurumaRegex(kSplitPatterns[0]),
                                         OnigurumaRegex(kSplitPatterns[1]),
                                         OnigurumaRegex(kSplitPatterns[2])};
  std::vector<std::string> alphabet;
  for (const char* s :
       {" ",      " ",      "  ",     "\t",        "\n",  "\r",     "\r\n",   "\u00A0", "\u3000",
        "\u2028", "\u0085", "a",      "Z",         "the", "é",      "Σ",      "й",      "한",
        "ह",      "\u0301", "0",      "9",         "123", "٣",      "½",      "。",     "，",
        "!",      "\"",     "'",      "_",         "~",   "\\",     "]",      "-",      "¡",
        "€",      "°",      "🙂",   "👨\u200D👩",  "中",  "文",     "龥",     "龦",     "ひ",
        "カ",     "・",     "゠",     "゙",          "゛",  "\u3040", "\u3097", "\u200B", "\uFEFF",
        "\u00AD", "\x01",   "\uE000", "\U000E0041"}) {
    alphabet.emplace_back(s);
  }
  uint64_t state = 2026;
  const auto next = [&] {
    return state = state * 6364136223846793005u + 1442695040888963407u,
           static_cast<uint32_t>(state >> 33);
  };
  OnigurumaRegex unassigned("\\p{Cn}");
  for (int round = 0; round < 30000; ++round) {
    std::string text;
    for (uint32_t n = 1 + next() % 20; n > 0; --n) {
      const std::string any = utf8(next() % 0x30000);
      const bool usable =
          next() % 8 == 0 && !unassigned.search(any) && (any < utf8(0xD800) || any > utf8(0xDFFF));
      text += usable ? any : alphabet[next() % alphabet.size()];
    }
    ASSERT_EQ(our_pieces(text), oracle_pieces(steps, text)) << text;
  }
}

}  // namespace
}  // namespace cachalot::text
