// The layout that the engine allocates, of the published configurations.
// Source  reference/forward 3.5, 3.10, 8.1: its numbers are written out here.
#include "engine/model_cache_layout.h"

#include <gtest/gtest.h>

#include "base/test_data.h"
#include "cache/block_pool.h"
#include "cache/sequence_cache.h"

namespace cachalot::engine {
namespace {

// A row of 448 FP8 and 64 bf16 values with 8 bytes of scales, and one of 128 FP4 values with 4.
constexpr int64_t kKvRow = 584, kIndexRow = 68;

cache::CacheLayout layout_of(const char* name, const CacheOptions& options) {
  const auto config =
      formats::load_config(test_data("formats/config/" + std::string(name))).value();
  return model_cache_layout(config, model::Precision::official(), options).value();
}
cache::CacheLayout flash_layout(const CacheOptions& options) {
  return layout_of("v4-flash.json", options);
}
cache::CacheLayout pro_layout(const CacheOptions& options) {
  return layout_of("v4-pro.json", options);
}

TEST(ModelCacheLayout, BytesPerTokenOfFlashAndProEqualTheFormula) {
  for (const int64_t block_tokens : {128, 256, 512}) {
    EXPECT_EQ(flash_layout({.block_tokens = block_tokens}).bytes_per_token(), 3514.25);
    EXPECT_EQ(pro_layout({.block_tokens = block_tokens}).bytes_per_token(), 5031.4375);
  }
  EXPECT_EQ(21 * (kKvRow + kIndexRow) / 4.0 + 20 * kKvRow / 128.0, 3514.25);
  EXPECT_EQ(30 * (kKvRow + kIndexRow) / 4.0 + 31 * kKvRow / 128.0, 5031.4375);
}

// CSA groups are whole lines (32 * 584 = 292 * 64, 32 * 68 = 34 * 64); an HCA group of n rows of
// 584 bytes is padded.
TEST(ModelCacheLayout, PaddingIsReportedPerBlockSize) {
  const auto hca_padding = [](int64_t rows) { return (64 - rows * kKvRow % 64) % 64; };
  for (const int64_t rows : {1, 2, 4}) {
    const CacheOptions options = {.block_tokens = 128 * rows};
    EXPECT_EQ(flash_layout(options).block_padding_bytes(), 20 * hca_padding(rows));
    EXPECT_EQ(pro_layout(options).block_padding_bytes(), 31 * hca_padding(rows));
    EXPECT_EQ(pro_layout(options).padding_bytes_per_token(),
              31 * hca_padding(rows) / (128.0 * static_cast<double>(rows)));
  }
  EXPECT_EQ(flash_layout({.block_tokens = 128}).padding_bytes_per_token(), 8.75);
  EXPECT_EQ(flash_layout({.block_tokens = 256}).padding_bytes_per_token(), 3.75);
  EXPECT_EQ(flash_layout({.block_tokens = 512}).padding_bytes_per_token(), 1.25);
}

TEST(ModelCacheLayout, MemoryTakenIsWhatTheLayoutSays) {
  for (const int64_t block_tokens : {128, 256, 512}) {
    auto pool = cache::BlockPool::create(flash_layout({.block_tokens = block_tokens}),
                                         {.max_blocks = 8, .max_sequences = 1})
                    .value();
    auto sequence = cache::SequenceCache::create(*pool).value();
    ASSERT_TRUE(sequence.reserve(1024).ok());
    const cache::CacheLayout& layout = pool->layout();
    const int64_t padding = pool->blocks().num_used() * layout.block_padding_bytes();
    EXPECT_EQ(static_cast<double>(pool->blocks().num_used() * layout.block_bytes() - padding),
              1024 * 3514.25);
    EXPECT_EQ(pool->blocks().reserved_bytes() % layout.block_bytes(), 0);
    EXPECT_EQ(pool->states().reserved_bytes(), layout.state_bytes());
  }
}

// The section's fp32 tails and window rings, and one ring for the MTP block. Room to step back adds
// that many rows to every ring: a key and a score of each series to a tail.
TEST(ModelCacheLayout, StateBytesOfFlashAndPro) {
  constexpr int64_t kMtpRing = 128 * kKvRow;
  const auto row_bytes = [](int64_t rings, int64_t csa, int64_t hca) {
    constexpr int64_t kPair = 2 * sizeof(float);
    return rings * kKvRow + csa * kPair * 2 * (512 + 128) + hca * kPair * 512;
  };
  for (const int64_t slack : {0, 8}) {
    const CacheOptions options = {.rewind_slack = slack};
    EXPECT_EQ(flash_layout(options).state_row_bytes(),
              12'206'080 + 3'214'336 + kMtpRing + slack * row_bytes(44, 21, 20));
    EXPECT_EQ(pro_layout(options).state_row_bytes(),
              18'710'528 + 4'559'872 + kMtpRing + slack * row_bytes(62, 30, 31));
  }
  EXPECT_EQ(flash_layout({}).rewind_slack(), 8);
}

}  // namespace
}  // namespace cachalot::engine
