#include "data/fim.h"

#include <gtest/gtest.h>

#include "base/test_data.h"
#include "data/streams.h"
#include "text/detokenizer.h"

namespace cachalot::data {
namespace {
constexpr FimTokens kTokens = {.begin = 100001, .hole = 100002, .end = 100003};

text::Tokenizer tokenizer() {
  auto peer = text::Tokenizer::load(test_data("tokenizer/peer-tokenizer.json"));
  return *std::move(peer);
}

std::vector<int32_t> rearranged(std::span<const int32_t> ids, int64_t body_begin, int64_t body_end,
                                FimCut cut) {
  std::vector<int32_t> out;
  for (const FimRun& run :
       fim_runs(static_cast<int64_t>(ids.size()), body_begin, body_end, cut, kTokens)) {
    if (run.inserted >= 0) {
      out.push_back(run.inserted);
    } else {
      out.insert(out.end(), ids.begin() + run.begin, ids.begin() + run.begin + run.length);
    }
  }
  return out;
}

TEST(Fim, TellsPrefixSuffixMiddle) {
  const std::vector<int32_t> ids = {0, 10, 11, 12, 13, 14, 1};
  EXPECT_EQ(
      rearranged(ids, 1, 6, {.prefix_end = 2, .suffix_begin = 4}),
      (std::vector<int32_t>{0, kTokens.begin, 10, 11, kTokens.hole, 14, kTokens.end, 12, 13, 1}));
  EXPECT_EQ(
      rearranged(ids, 0, 7, {.prefix_end = 0, .suffix_begin = 7}),
      (std::vector<int32_t>{kTokens.begin, kTokens.hole, kTokens.end, 0, 10, 11, 12, 13, 14, 1}));
}

// 1e5 documents: the rate is 0.1 within 0.003 (three standard deviations of the binomial), and each
// document comes back.
TEST(Fim, RateHoldsAndUndoingRestoresIds) {
  int64_t num_cut = 0;
  double places = 0;
  for (uint64_t d = 0; d < 100000; ++d) {
    const int64_t length = 3 + static_cast<int64_t>(d % 40);
    const auto cut = draw_fim_cut(data_stream(1, DataUse::fim, 0, 0, d), length - 2, 0.1);
    if (!cut) continue;
    ++num_cut;
    places += static_cast<double>(cut->prefix_end + cut->suffix_begin) /
              static_cast<double>(2 * (length - 2));
    std::vector<int32_t> ids = {0};
    while (static_cast<int64_t>(ids.size()) < length - 1) {
      ids.push_back(static_cast<int32_t>(ids.size()) + 10);
    }
    ids.push_back(1);
    const std::vector<int32_t> told = rearranged(ids, 1, length - 1, *cut);
    ASSERT_EQ(told.size(), ids.size() + 3);
    const auto undone = undo_fim(told, kTokens, 1);
    ASSERT_TRUE(undone.has_value());
    ASSERT_EQ(*undone, ids);
  }
  EXPECT_NEAR(static_cast<double>(num_cut) / 100000, 0.1, 0.003);
  // Cuts are uniform: the two places average to the document's middle. One draw's mean has variance
  // at most 1/12 (two places, uniform), so five standard errors over 1e4 documents are 5 *
  // sqrt(1/12/1e4) = 0.0145.
  EXPECT_NEAR(places / static_cast<double>(num_cut), 0.5, 0.0145);
}

TEST(Fim, RateEndsAreExact) {
  for (uint64_t d = 0; d < 1000; ++d) {
    EXPECT_FALSE(draw_fim_cut(data_stream(1, DataUse::fim, 0, 0, d), 5, 0).has_value());
    EXPECT_TRUE(draw_fim_cut(data_stream(1, DataUse::fim, 0, 0, d), 5, 1).has_value());
    EXPECT_FALSE(draw_fim_cut(data_stream(1, DataUse::fim, 0, 0, d), 0, 1).has_value());
  }
}

// Texts cut anywhere, control tokens spelled in them included, come back byte for byte.
TEST(Fim, UndoingRestoresTextByteForByte) {
  const text::Tokenizer tok = tokenizer();
  const FimTokens tokens = {
      .begin = tok.vocab_size(), .hole = tok.vocab_size() + 1, .end = tok.vocab_size() + 2};
  const std::string parts[] = {"the ", "<think>", "中文",   "\n\n",
                               "🙂", "é",       "x = 1;", "\xff\x80"};
  RngStream rng = data_stream(2, DataUse::tasks, 0, 0, 0);
  for (uint64_t d = 0; d < 3000; ++d) {
    std::string text;
    for (uint64_t n = draw_below(rng, 12); n > 0; --n) text += parts[draw_below(rng, 8)];
    auto cut =
        draw_fim_cut(data_stream(1, DataUse::fim, 0, 0, d), static_cast<int64_t>(text.size()), 1);
    if (!cut) continue;
    cut->prefix_end = character_boundary(text, cut->prefix_end);
    cut->suffix_begin = character_boundary(text, cut->suffix_begin);
    std::vector<int32_t> ids = encode_fim(tok, text, *cut, tokens);
    ids.push_back(tok.vocab_size() + 3);
    auto undone = undo_fim(ids, tokens, tok.vocab_size() + 3);
    ASSERT_TRUE(undone.has_value()) << undone.error().to_string();
    ASSERT_EQ(undone->back(), tok.vocab_size() + 3);
    undone->pop_back();
    ASSERT_EQ(*tok.decode_bytes(*undone), text);
  }
}

TEST(Fim, CharactersStayWhole) {
  const std::string text = "a中🙂\x80\x80\x80\x80\x80";
  const int64_t expected[] = {0, 1, 1, 1, 4, 4, 4, 4, 8, 9, 10, 11, 12, 13};
  for (int64_t byte = 0; byte <= static_cast<int64_t>(text.size()); ++byte) {
    EXPECT_EQ(character_boundary(text, byte), expected[byte]) << byte;
  }
}

TEST(Fim, UndoingRefusesWhatIsNotFim) {
  const int32_t b = kTokens.begin, h = kTokens.hole, e = kTokens.end;
  EXPECT_EQ(*undo_fim(std::vector<int32_t>{1, 2}, kTokens, {}), (std::vector<int32_t>{1, 2}));
  for (const std::vector<int32_t>& ids : {std::vector<int32_t>{b, 1},
                                          {b, h, 1},
                                          {h, b, e},
                                          {e},
                                          {b, h, e, b},
                                          {b, b, h, e},
                                          {b, h, h, e}}) {
    EXPECT_FALSE(undo_fim(ids, kTokens, {}).has_value());
  }
}

TEST(Fim, TokensComeFromTheTokenizer) {
  text::Tokenizer tok = tokenizer();
  EXPECT_EQ(fim_tokens(tok).error().code(), StatusCode::not_found);
  const std::vector<text::AddedToken> added = {{5000, "<｜fim▁hole｜>", true},
                                               {5001, "<｜fim▁begin｜>", true},
                                               {5002, "<｜fim▁end｜>", true}};
  ASSERT_TRUE(tok.add_tokens(added).ok());
  const auto tokens = fim_tokens(tok);
  ASSERT_TRUE(tokens.has_value());
  EXPECT_EQ(tokens->begin, 5001);
  EXPECT_EQ(tokens->hole, 5000);
  EXPECT_EQ(tokens->end, 5002);
}

}  // namespace
}  // namespace cachalot::data
