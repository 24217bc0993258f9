#include "data/conversation_corpus.h"

#include <fmt/format.h>

#include "base/file.h"
#include "base/test_data.h"
#include "data/data_loader.h"
#include "data/data_testing.h"

namespace cachalot::data {
namespace {

class ConversationCorpusTest : public DataFiles {
 protected:
  ConversationCorpusTest()
      : tokenizer_(*text::Tokenizer::load(test_data("../models/nano/tokenizer.json"))) {}

  static std::string row(int i) {
    return fmt::format(R"({{"messages": [{{"role": "user", "content": "What is {} times 3?"}}, )"
                       R"({{"role": "assistant", "content": "It is {}."}}]}})",
                       i, 3 * i);
  }
  Result<ConversationCorpus> build(const std::string& text, const std::string& prefix = "out",
                                   ConversationCorpusOptions options = {}, int num_threads = 2) {
    EXPECT_TRUE(write_file_atomically(path("rows.jsonl"), text).ok());
    ThreadPool threads(num_threads);
    const std::vector<std::string> files = {path("rows.jsonl")};
    return build_conversation_corpus(tokenizer_, files, path(prefix), options, threads);
  }
  std::string many(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += row(i) + "\n";
    return text;
  }

  text::Tokenizer tokenizer_;
};

TEST_F(ConversationCorpusTest, WeightsComeBackThroughTheLoader) {
  const auto made = build(many(40));
  ASSERT_TRUE(made.has_value()) << made.error().message();
  EXPECT_EQ(made->num_rows, 40);
  EXPECT_EQ(made->training.num_documents, 40);
  std::vector<MixEntry> mix;
  mix.push_back({*open_corpus(path("out.json")), 1});
  LoaderConfig config;
  config.sequence_length = 128;
  config.window_packs = 8;
  DataLoader loader = *DataLoader::create(config, std::move(mix));
  const Batch batch = *loader.batch(loader.start(), 4);
  for (const Pack& pack : batch.packs) {
    ASSERT_EQ(pack.weights.size(), pack.tokens.size());
    ASSERT_GT(pack.samples.size(), 1U);
    for (const Sample& sample : pack.samples) {
      const auto at = static_cast<size_t>(sample.pack_begin);
      const auto length = static_cast<size_t>(sample.length);
      const auto samples = conversation_samples(
          tokenizer_, *parse_json(row(static_cast<int>(sample.document)), "row"), {});
      EXPECT_EQ(std::vector(pack.weights.begin() + sample.pack_begin,
                            pack.weights.begin() + static_cast<ptrdiff_t>(at + length)),
                samples->front().weights);
      EXPECT_EQ(std::vector(pack.tokens.begin() + sample.pack_begin,
                            pack.tokens.begin() + static_cast<ptrdiff_t>(at + length)),
                samples->front().ids);
    }
  }
}

TEST_F(ConversationCorpusTest, BadRowsAreCountedAndNamed) {
  ConversationCorpusOptions options;
  options.max_tokens = 40;
  std::string text = many(30) + "\n" + "{\"messages\": 3}\n" + "not JSON\n";
  std::string words;
  for (int i = 0; i < 60; ++i) words += " and on";
  text +=
      R"([{"role": "user", "content": "x"}, {"role": "assistant", "content": ")" + words + "\"}]";
  const auto made = build(text, "out", options);
  ASSERT_TRUE(made.has_value()) << made.error().message();
  EXPECT_EQ(made->num_rows, 33);
  EXPECT_EQ(made->num_bad_rows, 3);
  EXPECT_EQ(made->training.num_documents, 30);
  const std::string named = *read_text_file(path("out-bad-rows.txt"));
  const std::string file = path("rows.jsonl");
  EXPECT_EQ(named.find(file + ":32: messages: expected a list, found number\n"), 0U) << named;
  EXPECT_NE(named.find(file + ":33: row:"), std::string::npos) << named;
  EXPECT_NE(named.find(file + ":34: expected at most 40 tokens, found "), std::string::npos);
}

TEST_F(ConversationCorpusTest, TooManyBadRowsAreAnError) {
  const std::string text = many(9) + "{}\n";
  EXPECT_TRUE(build(text).has_value());
  ConversationCorpusOptions options;
  options.most_bad_rows = 0.09;
  const auto strict = build(text, "strict", options);
  ASSERT_FALSE(strict.has_value());
  EXPECT_NE(
      strict.error().message().find("expected at most 9 % bad rows, found 1 of 10; the first: " +
                                    path("rows.jsonl") + ":10: messages: expected a list"),
      std::string::npos)
      << strict.error().message();
  EXPECT_FALSE(std::filesystem::exists(path("strict.json")));
  options.most_bad_rows = 0;
  EXPECT_FALSE(build(text, "none", options).has_value());
  EXPECT_NE(build("\n\n").error().message().find("found none in 0 rows"), std::string::npos);
}

// One of ten in a row, whatever the threads; what is held out is not learnt.
TEST_F(ConversationCorpusTest, HoldsOutOneOfEach) {
  ConversationCorpusOptions options;
  options.hold_out = 0.1;
  const auto made = build(many(50), "one", options, 1);
  ASSERT_TRUE(made.has_value()) << made.error().message();
  EXPECT_EQ(made->num_held_out_rows, 5);
  EXPECT_EQ(made->training.num_documents, 45);
  EXPECT_EQ(made->held_out.num_documents, 5);
  ASSERT_TRUE(build(many(50), "two", options, 3).has_value());
  for (const char* name : {"-00000.tokens", "-heldout-00000.tokens"}) {
    EXPECT_EQ(*read_text_file(path("one") + name), *read_text_file(path("two") + name)) << name;
  }
}

}  // namespace
}  // namespace cachalot::data
