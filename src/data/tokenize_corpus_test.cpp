#include "data/tokenize_corpus.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "base/test_data.h"
#include "data/corpus_list.h"
#include "data/data_testing.h"
#include "data/packing.h"
#include "data/streams.h"
#include "data/token_shard.h"

namespace cachalot::data {
namespace {

class TokenizeCorpusTest : public DataFiles {
 protected:
  TokenizeCorpusTest()
      : tokenizer_(*text::Tokenizer::load(test_data("tokenizer/peer-tokenizer.json"))) {}

  void SetUp() override {
    DataFiles::SetUp();
    static const std::string kParts[] = {"In the beginning ", "x = f(y);\n", "中文。\n",
                                         "<think>",           "\n\n",        "1234"};
    RngStream rng = data_stream(1, DataUse::tasks, 0, 0, 0);
    std::string lines;
    for (int d = 0; d < 300; ++d) {
      std::string text = "#" + std::to_string(d) + " ";
      for (uint64_t n = draw_below(rng, 40); n > 0; --n) text += kParts[draw_below(rng, 6)];
      texts_.push_back(text);
      std::string escaped;
      for (const char c : text) escaped += c == '\n' ? "\\n" : std::string(1, c);
      lines += "{\"text\": \"" + escaped + "\"}\n";
    }
    ASSERT_TRUE(write_file_atomically(path("a.jsonl"), lines).ok());
    ASSERT_TRUE(write_file_atomically(path("b.txt"), "plain text\n").ok());
    texts_.push_back("plain text\n");
  }
  Result<TokenizedCorpus> tokenize(const std::string& prefix, const TokenizeOptions& options,
                                   int num_threads = 2) {
    ThreadPool threads(num_threads);
    const std::vector<std::string> files = {path("a.jsonl"), path("b.txt")};
    return tokenize_corpus(tokenizer_, files, path(prefix), options, threads);
  }
  static std::vector<int32_t> document(const Dataset& dataset, int64_t d) {
    const DocumentPlace place = dataset.place(d);
    const TokenSource& shard = dataset.shard(place.shard);
    std::vector<int32_t> ids(static_cast<size_t>(shard.document_length(place.document)));
    EXPECT_TRUE(shard.read(place.document, 0, ids).ok());
    return ids;
  }

  text::Tokenizer tokenizer_;
  std::vector<std::string> texts_;
};

TEST_F(TokenizeCorpusTest, NothingToDoIsSaid) {
  ASSERT_TRUE(write_file_atomically(path("empty.txt"), "").ok());
  ASSERT_TRUE(write_file_atomically(path("bad.jsonl"), "{\"text\": null}\n").ok());
  ThreadPool threads(1);
  for (const std::string name : {"empty.txt", "bad.jsonl"}) {
    const std::vector<std::string> files = {path(name)};
    const auto summary =
        tokenize_corpus(tokenizer_, files, path("none"),
                        {.text = {.documents = {.skip_bad_lines = true}}}, threads);
    ASSERT_FALSE(summary.has_value()) << name;
    EXPECT_NE(summary.error().message().find("expected documents, found none"), std::string::npos)
        << summary.error().message();
    EXPECT_FALSE(read_text_file(path("none.json")).has_value());
  }
}

TEST_F(TokenizeCorpusTest, DocumentsComeBack) {
  const auto summary = tokenize("corpus", {.bos_id = 0, .eos_id = 1, .max_shard_tokens = 5000});
  ASSERT_TRUE(summary.has_value()) << summary.error().to_string();
  EXPECT_EQ(summary->training.num_documents, 301);
  EXPECT_GT(summary->training.shards.size(), 2u);
  int64_t bytes = 0;
  for (const std::string& text : texts_) bytes += static_cast<int64_t>(text.size());
  EXPECT_EQ(summary->training.text_bytes, bytes);
  for (const CorpusShard& shard : summary->training.shards) EXPECT_LE(shard.num_tokens, 5000);

  const auto dataset = open_corpus(path("corpus.json"));
  ASSERT_TRUE(dataset.has_value()) << dataset.error().to_string();
  EXPECT_EQ(dataset->num_documents(), 301);
  EXPECT_EQ(dataset->num_tokens(), summary->training.num_tokens);
  EXPECT_EQ(dataset->vocab_size(), tokenizer_.vocab_size());
  for (int64_t d = 0; d < 301; ++d) {
    const std::vector<int32_t> ids = document(*dataset, d);
    ASSERT_EQ(ids.front(), 0);
    ASSERT_EQ(ids.back(), 1);
    ASSERT_EQ(*tokenizer_.decode_bytes(std::span(ids).subspan(1, ids.size() - 2)),
              texts_[static_cast<size_t>(d)]);
  }
}

// Same shards from 1, 2 and 3 threads, and so the same packs.
TEST_F(TokenizeCorpusTest, ThreadsDoNotMatter) {
  const TokenizeOptions options = {.eos_id = 1,
                                   .max_shard_tokens = 5000,
                                   .seed = 3,
                                   .fim_rate = 0.3,
                                   .fim_tokens = FimTokens{2, 3, 4},
                                   .split_glued_rate = 0.5};
  std::vector<Packing> packings;
  for (const int num_threads : {1, 2, 3}) {
    ASSERT_TRUE(tokenize("t" + std::to_string(num_threads), options, num_threads).has_value());
    const Dataset dataset = *open_corpus(path("t" + std::to_string(num_threads) + ".json"));
    std::vector<int64_t> lengths;
    for (int64_t d = 0; d < dataset.num_documents(); ++d) {
      lengths.push_back(static_cast<int64_t>(document(dataset, d).size()));
    }
    packings.push_back(best_fit_packing(lengths, 128));
  }
  EXPECT_EQ(packings[0], packings[1]);
  EXPECT_EQ(packings[0], packings[2]);
  for (const std::string shard : {"-00000.tokens", "-00001.tokens", "-00002.tokens"}) {
    const std::string one = *read_text_file(path("t1" + shard));
    EXPECT_TRUE(one == *read_text_file(path("t2" + shard)));
    EXPECT_TRUE(one == *read_text_file(path("t3" + shard)));
  }
}

TEST_F(TokenizeCorpusTest, FimAndSplittingKeepTheText) {
  // The peer vocabulary has no FIM tokens; three control tokens of it stand in.
  const std::vector<text::AddedToken> added = {{6000, "<｜fim▁begin｜>", true},
                                               {6001, "<｜fim▁hole｜>", true},
                                               {6002, "<｜fim▁end｜>", true}};
  ASSERT_TRUE(tokenizer_.add_tokens(added).ok());
  const FimTokens fim = *fim_tokens(tokenizer_);
  ASSERT_TRUE(
      tokenize("corpus", {.eos_id = 1, .fim_rate = 0.5, .fim_tokens = fim, .split_glued_rate = 1})
          .has_value());
  const Dataset dataset = *open_corpus(path("corpus.json"));
  int num_fim = 0;
  for (int64_t d = 0; d < 301; ++d) {
    const std::vector<int32_t> ids = document(dataset, d);
    num_fim += ids.front() == fim.begin;
    auto undone = undo_fim(ids, fim, 1);
    ASSERT_TRUE(undone.has_value());
    ASSERT_EQ(undone->back(), 1);
    undone->pop_back();
    ASSERT_EQ(*tokenizer_.decode_bytes(*undone), texts_[static_cast<size_t>(d)]);
  }
  // Five standard deviations of binomial(301, 0.5): 5 * 8.7.
  EXPECT_NEAR(num_fim, 150, 44);
}

TEST_F(TokenizeCorpusTest, LongDocumentsHaveTheirOwnShard) {
  ASSERT_TRUE(
      write_file_atomically(path("a.jsonl"), "{\"text\": \"the one\"}\n{\"text\": \"the other\"}\n")
          .ok());
  const auto summary = tokenize("corpus", {.max_shard_tokens = 1});
  ASSERT_TRUE(summary.has_value());
  EXPECT_EQ(summary->training.shards.size(), 3u);
}

TEST_F(TokenizeCorpusTest, ErrorsLeaveNoList) {
  ASSERT_TRUE(write_file_atomically(path("b.txt"), std::string(2000, 'x')).ok());
  const auto summary = tokenize("corpus", {.text = {.documents = {.max_document_bytes = 1500}}});
  ASSERT_FALSE(summary.has_value());
  EXPECT_NE(summary.error().message().find("b.txt"), std::string::npos);
  EXPECT_EQ(open_corpus(path("corpus.json")).error().code(), StatusCode::not_found);
  EXPECT_FALSE(tokenize("x", {.bos_id = 5000000}).has_value());
  EXPECT_FALSE(tokenize("x", {.fim_rate = 0.1}).has_value());
  EXPECT_FALSE(tokenize("x", {.split_glued_rate = 2}).has_value());
  EXPECT_FALSE(tokenize("x", {.max_shard_tokens = 0}).has_value());
}

TEST_F(TokenizeCorpusTest, ListsAndShardsBelongTogether) {
  ASSERT_TRUE(tokenize("corpus", {}).has_value());
  ASSERT_TRUE(tokenize("other", {.eos_id = 1}).has_value());
  std::filesystem::rename(path("other-00000.tokens"), path("corpus-00000.tokens"));
  EXPECT_EQ(open_corpus(path("corpus.json")).error().code(), StatusCode::data_loss);
  const std::string list = *read_text_file(path("corpus.json"));
  const std::pair<std::string, std::string> edits[] = {{"corpus-00000", "../corpus-00000"},
                                                       {"cachalot-corpus", "other"},
                                                       {"\"version\": 1", "\"version\": 2"},
                                                       {"\"shards\"", "\"shard\""},
                                                       {"\"num_tokens\": ", "\"num_tokens\": -"}};
  for (const auto& [from, to] : edits) {
    std::string bad = list;
    const size_t at = bad.rfind(from);
    ASSERT_NE(at, std::string::npos);
    bad.replace(at, from.size(), to);
    ASSERT_TRUE(write_file_atomically(path("bad.json"), bad).ok());
    EXPECT_EQ(open_corpus(path("bad.json")).error().code(), StatusCode::invalid_argument) << to;
  }
}

TEST_F(TokenizeCorpusTest, TokenizersAreToldApart) {
  const uint64_t before = tokenizer_fingerprint(tokenizer_);
  const std::vector<text::AddedToken> added = {{6000, "<new>", true}};
  ASSERT_TRUE(tokenizer_.add_tokens(added).ok());
  EXPECT_NE(tokenizer_fingerprint(tokenizer_), before);
}

// What is held out is a corpus of its own, plain whatever training gets; its folder is made.
TEST_F(TokenizeCorpusTest, AHeldOutShareIsItsOwnCorpus) {
  const auto corpus = tokenize("new/folder/corpus",
                               {.text = {.hold_out = 0.1}, .eos_id = 1, .split_glued_rate = 1});
  ASSERT_TRUE(corpus.has_value()) << corpus.error().to_string();
  const auto held_out_bytes = static_cast<double>(corpus->held_out.text_bytes);
  EXPECT_NEAR(held_out_bytes / (held_out_bytes + static_cast<double>(corpus->training.text_bytes)),
              0.1, 0.01);
  EXPECT_EQ(corpus->training.num_documents + corpus->held_out.num_documents, 301);
  const Dataset held_out = *open_corpus(path("new/folder/corpus-heldout.json"));
  EXPECT_EQ(held_out.num_documents(), corpus->held_out.num_documents);
  for (int64_t d = 0; d < held_out.num_documents(); ++d) {
    std::vector<int32_t> ids = document(held_out, d);
    ids.pop_back();
    const std::string text = *tokenizer_.decode_bytes(ids);
    const text::Segment segment = {.kind = text::Segment::Kind::text, .text = text};
    EXPECT_EQ(ids, tokenizer_.encode_segments(std::span(&segment, 1)));
  }
}

}  // namespace
}  // namespace cachalot::data
