#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "base/test_data.h"
#include "text/detokenizer.h"

namespace cachalot::text {
namespace {

Tokenizer peer() { return *Tokenizer::load(test_data("tokenizer/peer-tokenizer.json")); }

class Random {
 public:
  uint32_t below(uint32_t n) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 33) % n;
  }

 private:
  uint64_t state_ = 11;
};

std::string random_text(Random& random, bool utf8) {
  static const std::vector<std::string> kParts = {"In the beginning ",
                                                  "<think>",
                                                  "</think>",
                                                  "<｜User｜>",
                                                  "<｜",
                                                  "｜>",
                                                  "中文",
                                                  "🙂",
                                                  "é",
                                                  "\n",
                                                  "  ",
                                                  "1234",
                                                  "\"x\"",
                                                  "\u00A0",
                                                  "\u200D",
                                                  "the",
                                                  "<"};
  std::string text;
  for (uint32_t n = random.below(20); n > 0; --n) {
    text += utf8 ? kParts[random.below(static_cast<uint32_t>(kParts.size()))]
                 : std::string(1, static_cast<char>(random.below(256)));
  }
  return text;
}

TEST(Tokenizer, DecodingUndoesEncodingForAnyBytes) {
  const Tokenizer tokenizer = peer();
  Random random;
  for (int round = 0; round < 20000; ++round) {
    const std::string text = random_text(random, round % 2 == 0);
    const std::vector<int32_t> ids = tokenizer.encode(text);
    ASSERT_EQ(*tokenizer.decode_bytes(ids), text);
    if (round % 2 == 0) {
      ASSERT_EQ(*tokenizer.decode(ids), text);
    }
  }
}

// Any ids, not only those of an encoding: they may end inside characters.
TEST(Tokenizer, StreamedTextIsTheWholeText) {
  const Tokenizer tokenizer = peer();
  Random random;
  for (int round = 0; round < 3000; ++round) {
    std::vector<int32_t> ids;
    for (uint32_t n = random.below(12); n > 0; --n) {
      ids.push_back(static_cast<int32_t>(random.below(random.below(4) == 0 ? 2048 : 263)));
    }
    Detokenizer detokenizer(tokenizer);
    std::string text;
    for (const int32_t id : ids) {
      const size_t before = text.size();
      ASSERT_TRUE(detokenizer.push(id, text).ok());
      std::string part = text.substr(before), valid;
      Utf8Stream whole_characters;
      whole_characters.push(part, valid);
      ASSERT_EQ(valid, part);
      ASSERT_EQ(whole_characters.pending(), "");
    }
    detokenizer.finish(text);
    ASSERT_EQ(text, *tokenizer.decode(ids));
  }
}

TEST(Tokenizer, UnknownIdsAreErrorsThatChangeNothing) {
  const Tokenizer tokenizer = peer();
  Detokenizer detokenizer(tokenizer);
  std::string text;
  const auto lead = tokenizer.token_id("\xE4");
  ASSERT_TRUE(lead);
  ASSERT_TRUE(detokenizer.push(*lead, text).ok());
  for (const int32_t id : {-1, 2048, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(detokenizer.push(id, text).code(), StatusCode::invalid_argument);
    EXPECT_FALSE(tokenizer.decode(std::vector<int32_t>{0, id}));
    EXPECT_FALSE(tokenizer.token_bytes(id));
  }
  EXPECT_EQ(text, "");
  EXPECT_EQ(detokenizer.pending(), "\xE4");
  detokenizer.finish(text);
  EXPECT_EQ(text, "\uFFFD");
}

TEST(Tokenizer, AddedTokensMatchLeftmostLongest) {
  Tokenizer tokenizer = peer();
  const std::vector<AddedToken> tokens = {{3000, "<a", false},
                                          {3001, "<a>", true},
                                          {3002, "a>b", false},
                                          {3003, "<abc", false},
                                          {3004, "\xFF", false}};
  ASSERT_TRUE(tokenizer.add_tokens(tokens).ok());
  EXPECT_EQ(tokenizer.vocab_size(), 3005);
  EXPECT_EQ(tokenizer.added_tokens().back().content, "\xFF");
  const auto plain = [&](std::string_view text) { return *tokenizer.token_id(text); };
  EXPECT_EQ(
      tokenizer.encode("<a>b"),
      (std::vector<int32_t>{3001, plain("b")}));  // leftmost before "a>b", longest before "<a"
  EXPECT_EQ(tokenizer.encode("<ab"),
            (std::vector<int32_t>{3000, plain("b")}));  // "<abc" is not all there
  EXPECT_EQ(tokenizer.encode("a>b\xFF"), (std::vector<int32_t>{3002, 3004}));
  EXPECT_EQ(tokenizer.encode("<a<abc<a>"), (std::vector<int32_t>{3000, 3003, 3001}));
  EXPECT_EQ(tokenizer.token_id("<ab"), std::nullopt);
  EXPECT_EQ(tokenizer.token_id(""), std::nullopt);
  EXPECT_FALSE(tokenizer.token_bytes(2500));  // between the base vocabulary and the added tokens
}

TEST(Tokenizer, AddedTokensThatContradictAreRefusedWhole) {
  Tokenizer tokenizer = peer();
  const auto refused = [&](std::vector<AddedToken> tokens) {
    tokens.insert(tokens.begin(), {3000, "<new>", false});
    const Status status = tokenizer.add_tokens(tokens);
    EXPECT_EQ(tokenizer.token_id("<new>"), std::nullopt);
    return status.message();
  };
  EXPECT_EQ(refused({{3001, "<think>", false}}),
            "added token \"<think>\": expected one id, found 5 and 3001");
  EXPECT_EQ(refused({{5, "<x>", false}}),
            "added token id 5: expected one token, found \"<think>\" and \"<x>\"");
  EXPECT_EQ(refused({{40, "<x>", false}}),
            "added token id 40: expected one token, found \"B\" and \"<x>\"");
  EXPECT_EQ(refused({{-1, "<x>", false}}),
            "added token \"<x>\": expected a content and an id from 0 to 2097150, found id -1");
  EXPECT_TRUE(
      tokenizer.add_tokens(std::vector<AddedToken>{{5, "<think>", true}}).ok());  // there already
  EXPECT_EQ(tokenizer.added_tokens().size(), 7u);
}

TEST(Tokenizer, SegmentsEqualTheJoinedTextWhereTextSpellsNoAddedToken) {
  const Tokenizer tokenizer = peer();
  Random random;
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> texts;
    std::vector<Segment> segments;
    std::string joined;
    for (uint32_t n = random.below(6); n > 0; --n)
      texts.push_back(random.below(2) ? "<｜User｜>"
                                      : "In the beginning. " + std::string(random.below(4), '\n'));
    for (const std::string& text : texts) {
      segments.push_back({text[0] == '<' ? Segment::Kind::control : Segment::Kind::text, text});
      joined += text;
    }
    ASSERT_EQ(tokenizer.encode_segments(segments), tokenizer.encode(joined));
  }
}

TEST(Tokenizer, ConcurrentCallsAgree) {
  const Tokenizer tokenizer = peer();
  Random random;
  std::vector<std::string> texts;
  std::vector<std::vector<int32_t>> expected;
  for (int i = 0; i < 200; ++i) {
    texts.push_back(random_text(random, true));
    expected.push_back(tokenizer.encode(texts.back()));
  }
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(tokenizer.encode(texts[i]), expected[i]);
    });
  }
}

}  // namespace
}  // namespace cachalot::text
