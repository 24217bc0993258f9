#include "data/token_shard.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/file.h"
#include "data/data_testing.h"

namespace cachalot::data {
namespace {

class TokenShardTest : public DataFiles {
 protected:
  std::string write(int64_t vocab_size, const std::vector<std::vector<int32_t>>& documents,
                    uint64_t tokenizer = 7) {
    const std::string file = path("shard");
    auto writer = TokenShardWriter::create(file, vocab_size, tokenizer);
    EXPECT_TRUE(writer.has_value());
    for (const auto& document : documents) EXPECT_TRUE(writer->add_document(document).ok());
    auto finished = writer->finish();
    EXPECT_TRUE(finished.has_value());
    fingerprint_ = *finished;
    return file;
  }
  std::vector<std::byte> bytes(const std::string& file) {
    const auto mapped = MappedFile::open(file);
    return {mapped->bytes().begin(), mapped->bytes().end()};
  }
  uint64_t fingerprint_ = 0;
};

const std::vector<std::vector<int32_t>> kDocuments = {{1, 2, 3}, {}, {65535}, {9, 8, 7, 6, 5}};

TEST_F(TokenShardTest, GivesBackWhatWasWritten) {
  for (const int64_t vocab_size : {65536, 65537, 129280}) {
    const auto shard = TokenShard::open(write(vocab_size, kDocuments));
    ASSERT_TRUE(shard.has_value()) << shard.error().to_string();
    const TokenShard& s = **shard;
    EXPECT_EQ(s.num_documents(), 4);
    EXPECT_EQ(s.num_tokens(), 9);
    EXPECT_EQ(s.vocab_size(), vocab_size);
    EXPECT_EQ(s.tokenizer_fingerprint(), 7u);
    EXPECT_EQ(s.fingerprint(), fingerprint_);
    for (size_t d = 0; d < kDocuments.size(); ++d) {
      const auto length = s.document_length(static_cast<int64_t>(d));
      ASSERT_EQ(length, static_cast<int64_t>(kDocuments[d].size()));
      for (int64_t begin = 0; begin <= length; ++begin) {
        std::vector<int32_t> out(static_cast<size_t>(length - begin));
        ASSERT_TRUE(s.read(static_cast<int64_t>(d), begin, out).ok());
        EXPECT_EQ(out, std::vector(kDocuments[d].begin() + begin, kDocuments[d].end()));
      }
    }
    // 64 + tokens padded to 8 + ends + 48.
    EXPECT_EQ(std::filesystem::file_size(s.name()),
              vocab_size == 65536 ? 64u + 24 + 32 + 48 : 64u + 40 + 32 + 48);
  }
}

TEST_F(TokenShardTest, KeepsWeights) {
  const std::vector<std::vector<float>> weights = {{0, 1, 0.5f}, {}, {3}, {0, 0, 1, 1, 0}};
  const auto write_weighted = [&](const std::string& name) {
    auto writer = TokenShardWriter::create(path(name), 65536, 7, true);
    for (size_t d = 0; d < kDocuments.size(); ++d)
      EXPECT_TRUE(writer->add_document(kDocuments[d], weights[d]).ok());
    return *writer->finish();
  };
  const uint64_t fingerprint = write_weighted("weighted");
  const auto shard = TokenShard::open(path("weighted"));
  ASSERT_TRUE(shard.has_value()) << shard.error().to_string();
  EXPECT_TRUE((*shard)->has_weights());
  EXPECT_EQ((*shard)->fingerprint(), fingerprint);
  for (size_t d = 0; d < kDocuments.size(); ++d) {
    std::vector<int32_t> ids(kDocuments[d].size());
    ASSERT_TRUE((*shard)->read(static_cast<int64_t>(d), 0, ids).ok());
    EXPECT_EQ(ids, kDocuments[d]);
    for (size_t begin = 0; begin <= ids.size(); ++begin) {
      std::vector<float> out(ids.size() - begin);
      ASSERT_TRUE((*shard)->read_weights(static_cast<int64_t>(d), begin, out).ok());
      EXPECT_EQ(out, std::vector(weights[d].begin() + begin, weights[d].end()));
    }
  }
  // 64 + tokens and weights padded to 8 + ends + 48.
  EXPECT_EQ(std::filesystem::file_size(path("weighted")), 64u + 24 + 32 + 40 + 48);
  // Without weights each token weighs 1; weights of a shard are part of what it is.
  const auto plain = TokenShard::open(write(65536, kDocuments));
  EXPECT_FALSE((*plain)->has_weights());
  std::vector<float> ones(3);
  ASSERT_TRUE((*plain)->read_weights(0, 0, ones).ok());
  EXPECT_EQ(ones, std::vector<float>(3, 1));
  EXPECT_NE((*plain)->fingerprint(), fingerprint);
  // A changed weight is seen.
  std::vector<std::byte> file = bytes(path("weighted"));
  file[64 + 24 + 32 + 4] ^= std::byte{1};
  const auto torn = TokenShard::from_bytes(file, "torn", {});
  ASSERT_FALSE(torn.has_value());
  EXPECT_NE(torn.error().message().find("weights"), std::string::npos) << torn.error().message();
}

TEST_F(TokenShardTest, MayBeEmpty) {
  const auto shard = TokenShard::open(write(10, {}));
  ASSERT_TRUE(shard.has_value());
  EXPECT_EQ((*shard)->num_documents(), 0);
  EXPECT_EQ((*shard)->num_tokens(), 0);
}

TEST_F(TokenShardTest, FingerprintsTellContentsApart) {
  write(100, {{1, 2}, {3}});
  const uint64_t first = fingerprint_;
  write(100, {{1}, {2, 3}});
  EXPECT_NE(fingerprint_, first);
  write(100, {{1, 2}, {4}});
  EXPECT_NE(fingerprint_, first);
  write(100, {{1, 2}, {3}});
  EXPECT_EQ(fingerprint_, first);
}

TEST_F(TokenShardTest, UnfinishedLeavesNothing) {
  {
    auto writer = TokenShardWriter::create(path("shard"), 10, 0);
    ASSERT_TRUE(writer->add_document(std::vector<int32_t>{1, 2}).ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

// Every single flipped bit and every truncation is noticed, and none crashes.
TEST_F(TokenShardTest, EveryDamagedByteIsNoticed) {
  const std::vector<std::byte> whole = bytes(write(65536, kDocuments));
  for (size_t i = 0; i < whole.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::vector<std::byte> damaged = whole;
      damaged[i] ^= std::byte{static_cast<uint8_t>(1 << bit)};
      const auto shard = TokenShard::from_bytes(damaged, "damaged", {});
      ASSERT_FALSE(shard.has_value()) << "byte " << i << " bit " << bit;
      ASSERT_NE(shard.error().message().find("damaged"), std::string::npos);
    }
  }
  for (size_t size = 0; size < whole.size(); ++size) {
    const auto part = std::span(whole).first(size);
    ASSERT_FALSE(TokenShard::from_bytes(part, "short", {}).has_value()) << size;
  }
  std::vector<std::byte> longer = whole;
  longer.resize(whole.size() + 8);
  EXPECT_FALSE(TokenShard::from_bytes(longer, "longer", {}).has_value());
}

// Whoever writes the checksums can also lie consistently: counts that overflow, ends that fall.
TEST_F(TokenShardTest, ConsistentLiesAreNoticed) {
  const std::vector<std::byte> whole = bytes(write(65536, kDocuments));
  const size_t trailer = whole.size() - 48;
  const size_t ends = trailer - 32;
  const auto with = [&](size_t offset, uint64_t value) {
    std::vector<std::byte> file = whole;
    std::memcpy(file.data() + offset, &value, 8);
    const uint64_t ends_sum = XXH3_64bits_withSeed(file.data() + ends, 32, 2);
    std::memcpy(file.data() + trailer + 24, &ends_sum, 8);
    const uint64_t sum = XXH3_64bits_withSeed(file.data() + trailer, 40, 3);
    std::memcpy(file.data() + trailer + 40, &sum, 8);
    const uint64_t header_sum = XXH3_64bits_withSeed(file.data(), 56, 0);
    std::memcpy(file.data() + 56, &header_sum, 8);
    return TokenShard::from_bytes(file, "lie", {});
  };
  ASSERT_TRUE(with(trailer, 4).has_value());  // the mending above is right
  EXPECT_FALSE(with(trailer, uint64_t{1} << 61).has_value());
  EXPECT_FALSE(with(trailer, 5).has_value());
  EXPECT_FALSE(with(trailer + 8, (uint64_t{1} << 63) + 9).has_value());
  EXPECT_FALSE(with(trailer + 8, 8).has_value());
  EXPECT_FALSE(with(ends, 4 + (uint64_t{1} << 63)).has_value());
  EXPECT_FALSE(with(ends + 8, 2).has_value());
  EXPECT_FALSE(with(ends + 24, 8).has_value());
  EXPECT_FALSE(with(16, 0).has_value());
  EXPECT_FALSE(with(16, uint64_t{1} << 31).has_value());
  EXPECT_FALSE(with(16, 70000).has_value());  // another width
  EXPECT_FALSE(with(40, 1).has_value());
}

// Without verifying, an id beyond the vocabulary is found when it is read.
TEST_F(TokenShardTest, UnverifiedReadsStayInTheVocabulary) {
  std::vector<std::byte> file = bytes(write(100, {{1, 2, 3}}));
  file[66] = std::byte{100};
  ASSERT_FALSE(TokenShard::from_bytes(file, "rotten", {}).has_value());
  const auto shard = TokenShard::from_bytes(file, "rotten", {.verify_tokens = false});
  ASSERT_TRUE(shard.has_value());
  std::vector<int32_t> out(3);
  const Status status = (*shard)->read(0, 0, out);
  EXPECT_EQ(status.code(), StatusCode::data_loss);
  EXPECT_EQ(status.message(), "rotten: token 1: expected an id in [0, 100), found 100");
  EXPECT_TRUE((*shard)->read(0, 2, std::span(out).first(1)).ok());
}

TEST_F(TokenShardTest, OtherFilesAreRefused) {
  EXPECT_EQ(TokenShard::open(path("none")).error().code(), StatusCode::not_found);
  ASSERT_TRUE(write_file_atomically(path("text"), std::string(200, 'x')).ok());
  EXPECT_EQ(TokenShard::open(path("text")).error().code(), StatusCode::invalid_argument);
}

}  // namespace
}  // namespace cachalot::data
