// Vocabularies learned by the rule of the header, compared with its plain definition, and read
// back.
#include "text/bpe_trainer.h"

#include <gtest/gtest.h>

#include <map>

#include "base/rng.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"

namespace cachalot::text {
namespace {

std::vector<std::string> documents() {
  RngStream rng(1, RngPurpose::data, 0);
  const char* words[] = {"the", " whale", " dives", " deep", ", ", "\n",
                         "42",  "über",   "深い",   "aaaa",  "_x", " = "};
  std::vector<std::string> out(50);
  for (std::string& document : out) {
    for (int i = 0; i < 60; ++i) document += words[rng.next_u32() % 12];
  }
  return out;
}

TokenizerSpec trained(const std::vector<std::string>& documents, int64_t vocab_size) {
  BpeTrainer trainer;
  for (const std::string& document : documents) trainer.add(document);
  return trainer.train(vocab_size).value();
}

int64_t controls() { return static_cast<int64_t>(trained(documents(), 400).added_tokens.size()); }

// The rule, word for word: count everything again before every merge.
TEST(BpeTrainer, MergesAreThoseOfThePlainRule) {
  const auto texts = documents();
  BpeTrainer trainer;
  for (const std::string& text : texts) trainer.add(text);
  const int64_t fixed = controls() + 256;
  const TokenizerSpec spec = trainer.train(fixed + 40).value();
  std::map<int32_t, std::string> bytes;
  std::map<std::string, int32_t> ids;
  for (const VocabularyEntry& entry : spec.vocabulary) {
    if (entry.literal) continue;
    bytes[entry.id] = entry.bytes;
    ids[entry.bytes] = entry.id;
  }
  std::vector<std::vector<int32_t>> words;
  for (const std::string& text : texts) {
    const char* at = text.data();
    while (at < text.data() + text.size()) {
      const char* next = next_piece(at, text.data() + text.size());
      auto& word = words.emplace_back();
      for (; at < next; ++at) word.push_back(ids.at(std::string(1, *at)));
    }
  }
  for (const Merge& merge : spec.merges) {
    std::map<std::pair<int32_t, int32_t>, int64_t> counts;
    for (const auto& word : words) {
      for (size_t i = 0; i + 1 < word.size(); ++i) ++counts[{word[i], word[i + 1]}];
    }
    auto best = counts.begin();
    for (auto it = counts.begin(); it != counts.end(); ++it) {
      if (it->second > best->second) best = it;
    }
    ASSERT_EQ(best->first, std::make_pair(merge.left, merge.right)) << best->second;
    EXPECT_EQ(bytes[merge.product], bytes[merge.left] + bytes[merge.right]);
    for (auto& word : words) {
      std::vector<int32_t> merged;
      for (size_t i = 0; i < word.size(); ++i) {
        const bool here =
            i + 1 < word.size() && word[i] == merge.left && word[i + 1] == merge.right;
        merged.push_back(here ? merge.product : word[i]);
        i += here ? 1 : 0;
      }
      word = merged;
    }
  }
}

TEST(BpeTrainer, OrderOfDocumentsDoesNotMatter) {
  auto texts = documents();
  const std::string forward = tokenizer_json(trained(texts, controls() + 300));
  std::reverse(texts.begin(), texts.end());
  EXPECT_EQ(forward, tokenizer_json(trained(texts, controls() + 300)));
}

TEST(BpeTrainer, WhatIsWrittenLoadsAndRoundTrips) {
  const int64_t size = controls() + 300;
  const Tokenizer tokenizer =
      Tokenizer::from_json(tokenizer_json(trained(documents(), size)), "test").value();
  EXPECT_EQ(tokenizer.vocab_size(), size);
  EXPECT_EQ(tokenizer.token_id("<｜begin▁of▁sentence｜>"), 0);
  EXPECT_EQ(tokenizer.token_id("<｜end▁of▁sentence｜>"), 1);
  for (const char* name : {"<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "｜DSML｜",
                           "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"}) {
    ASSERT_TRUE(tokenizer.token_id(name).has_value()) << name;
    EXPECT_EQ(tokenizer.encode(name).size(), 1u) << name;
  }
  RngStream rng(2, RngPurpose::data, 0);
  for (int i = 0; i < 200; ++i) {
    std::string text;
    for (uint32_t n = rng.next_u32() % 40; n > 0; --n)
      text += static_cast<char>(rng.next_u32() % 256);
    EXPECT_EQ(tokenizer.decode_bytes(tokenizer.encode(text)).value(), text);
  }
  const std::string known = "the whale dives deep, the whale";
  EXPECT_LT(tokenizer.encode(known).size(), known.size() / 2);
}

// With a least count the text decides: merges are the first of the whole list, down to that count.
TEST(BpeTrainer, ALeastCountEndsTheListEarly) {
  BpeTrainer trainer;
  for (int i = 0; i < 9; ++i) trainer.add("abab");
  for (int i = 0; i < 3; ++i) trainer.add("xy");
  const int64_t fixed = static_cast<int64_t>(trained(documents(), 400).added_tokens.size()) + 256;
  EXPECT_EQ(trainer.train(5000, 4)->merges.size(), 2u);  // ab, abab
  EXPECT_EQ(trainer.train(5000, 2)->merges.size(), 3u);  // xy
  EXPECT_EQ(trainer.train(fixed + 1, 2)->merges.size(), 1u);
  const Tokenizer tokenizer =
      Tokenizer::from_json(tokenizer_json(trainer.train(5000, 4).value()), "test").value();
  EXPECT_EQ(tokenizer.vocab_size(), fixed + 2);
}

TEST(BpeTrainer, RefusesSizesItCannotMeet) {
  BpeTrainer trainer;
  trainer.add("ab ab");
  EXPECT_EQ(trainer.train(100).error().code(), StatusCode::invalid_argument);
  const Status too_many = trainer.train(5000).error();
  EXPECT_NE(too_many.message().find("expected at most"), std::string::npos) << too_many.message();
}

}  // namespace
}  // namespace cachalot::text
