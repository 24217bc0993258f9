#include "data/glued_tokens.h"

#include <gtest/gtest.h>

#include <string>

#include "data/streams.h"
#include "tokenizer/v3_vocabulary.h"

namespace cachalot::data {
namespace {

const text::Tokenizer& v4() {
  static const text::Tokenizer tokenizer = text::v4_tokenizer();
  return tokenizer;
}
const GluedTokens& glued() {
  static const GluedTokens tokens(v4());
  return tokens;
}

std::string random_text(RngStream& rng) {
  static const std::string kParts[] = {
      "f(x);\n", "end.\n\n", "}\n",       "\"quoted\".\r\n", "word", " ",       "。\n",
      "1.\n",    "\n",       "<think>\n", "\xff.\n",         "中文", ":\n\n\n", "  })\n"};
  std::string text;
  for (uint64_t n = draw_below(rng, 30); n > 0; --n) text += kParts[draw_below(rng, 14)];
  for (uint64_t n = draw_below(rng, 4); n > 0; --n) {
    text += static_cast<char>(draw_below(rng, 256));
  }
  return text;
}

TEST(GluedTokens, OfTheVocabulary) {
  EXPECT_GT(glued().num_glued(), 100);
  for (const std::string text : {".\n", ";\n", ");\n\n", "}\r\n", "。\n"}) {
    const auto id = v4().token_id(text);
    if (!id) continue;
    EXPECT_TRUE(glued().is_glued(*id)) << text;
  }
  ASSERT_TRUE(v4().token_id(".\n").has_value());
  for (const std::string text : {".", "\n", "\n\n", " \n", "the", "<think>"}) {
    const auto id = v4().token_id(text);
    ASSERT_TRUE(id.has_value()) << text;
    EXPECT_FALSE(glued().is_glued(*id)) << text;
  }
  EXPECT_FALSE(glued().is_glued(v4().vocab_size()));
}

TEST(GluedTokens, SplittingNeverChangesTheText) {
  RngStream rng = data_stream(1, DataUse::tasks, 0, 0, 0);
  int64_t num_changed = 0;
  for (uint64_t d = 0; d < 4000; ++d) {
    const std::string text = random_text(rng);
    const std::vector<int32_t> ids = v4().encode(text);
    ASSERT_EQ(*v4().decode_bytes(ids), text);
    const std::vector<int32_t> split =
        glued().split(ids, 0.5, data_stream(1, DataUse::glued_tokens, 0, 0, d));
    ASSERT_EQ(*v4().decode_bytes(split), text);
    num_changed += split != ids;
    const std::vector<int32_t> all =
        glued().split(ids, 1, data_stream(1, DataUse::glued_tokens, 0, 0, d));
    for (const int32_t id : all) ASSERT_FALSE(glued().is_glued(id));
    ASSERT_EQ(*v4().decode_bytes(all), text);
    ASSERT_EQ(glued().split(ids, 0, rng), ids);
  }
  EXPECT_GT(num_changed, 3000);
}

// Every glued token of the vocabulary, alone.
TEST(GluedTokens, EveryOneSplitsIntoItsBytes) {
  for (int32_t id = 0; id < v4().vocab_size(); ++id) {
    if (!glued().is_glued(id)) continue;
    const auto parts =
        glued().split(std::span(&id, 1), 1, data_stream(1, DataUse::glued_tokens, 0, 0, 0));
    ASSERT_GE(parts.size(), 2u);
    ASSERT_EQ(*v4().decode_bytes(parts), *v4().token_bytes(id));
  }
}

TEST(GluedTokens, RateIsTheFraction) {
  const std::vector<int32_t> ids(20000, *v4().token_id(".\n"));
  const auto split = glued().split(ids, 0.3, data_stream(4, DataUse::glued_tokens, 0, 0, 0));
  // Each split adds one; five standard deviations of binomial(20000, 0.3) are 5 * 64.8.
  EXPECT_NEAR(static_cast<double>(split.size() - ids.size()), 6000, 324);
}

}  // namespace
}  // namespace cachalot::data
