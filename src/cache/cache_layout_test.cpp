#include "cache/cache_layout.h"

#include <gtest/gtest.h>

#include "cache/block_pool.h"
#include "cache/cache_testing.h"
#include "cache/sequence_cache.h"

namespace cachalot::cache {
namespace {
using testing::flash_layout;
using testing::pro_layout;

TEST(CacheLayout, BytesPerTokenOfFlashAndProEqualTheFormula) {
  for (const int64_t block_tokens : {128, 256, 512}) {
    EXPECT_EQ(flash_layout(block_tokens, 8).bytes_per_token(), 3514.25);
    EXPECT_EQ(pro_layout(block_tokens, 8).bytes_per_token(), 5031.4375);
  }
  // The formula itself: CSA (584 + 68) / 4, HCA 584 / 128.
  EXPECT_EQ(21 * (584 + 68) / 4.0 + 20 * 584 / 128.0, 3514.25);
  EXPECT_EQ(30 * (584 + 68) / 4.0 + 31 * 584 / 128.0, 5031.4375);
}

// CSA groups are whole lines (32 * 584 = 292 * 64, 32 * 68 = 34 * 64); an HCA group of n rows of
// 584 bytes is padded.
TEST(CacheLayout, PaddingIsReportedPerBlockSize) {
  const auto hca_padding = [](int64_t rows) { return (64 - rows * 584 % 64) % 64; };
  EXPECT_EQ(flash_layout(128, 0).block_padding_bytes(), 20 * hca_padding(1));
  EXPECT_EQ(flash_layout(256, 0).block_padding_bytes(), 20 * hca_padding(2));
  EXPECT_EQ(flash_layout(512, 0).block_padding_bytes(), 20 * hca_padding(4));
  EXPECT_EQ(flash_layout(128, 0).padding_bytes_per_token(), 8.75);
  EXPECT_EQ(flash_layout(256, 0).padding_bytes_per_token(), 3.75);
  EXPECT_EQ(flash_layout(512, 0).padding_bytes_per_token(), 1.25);
  EXPECT_EQ(pro_layout(128, 0).padding_bytes_per_token(), 31 * 56 / 128.0);
  EXPECT_EQ(pro_layout(256, 0).padding_bytes_per_token(), 31 * 48 / 256.0);
  EXPECT_EQ(pro_layout(512, 0).padding_bytes_per_token(), 31 * 32 / 512.0);
}

TEST(CacheLayout, MemoryTakenIsWhatTheLayoutSays) {
  for (const int64_t block_tokens : {128, 256, 512}) {
    auto pool =
        BlockPool::create(flash_layout(block_tokens, 8), {.max_blocks = 8, .max_sequences = 1})
            .value();
    SequenceCache cache = SequenceCache::create(*pool).value();
    ASSERT_TRUE(cache.reserve(1024).ok());
    const CacheLayout& layout = pool->layout();
    const int64_t padding = pool->blocks().num_used() * layout.block_padding_bytes();
    EXPECT_EQ(static_cast<double>(pool->blocks().num_used() * layout.block_bytes() - padding),
              1024 * 3514.25);
    EXPECT_EQ(pool->blocks().reserved_bytes() % layout.block_bytes(), 0);
    EXPECT_EQ(pool->states().reserved_bytes(), layout.state_bytes());
  }
}

// reference/forward 8.1 lists these for a state without rewind slack.
TEST(CacheLayout, StateBytesOfFlashAndPro) {
  EXPECT_EQ(flash_layout(128, 0).state_row_bytes(), 12'206'080 + 3'214'336);
  EXPECT_EQ(pro_layout(128, 0).state_row_bytes(), 18'710'528 + 4'559'872);
}

TEST(CacheLayout, StreamsDoNotOverlapAndStartOnLines) {
  const CacheLayout layout = testing::small_layout();
  int64_t state_end = 0, block_end = 0;
  const auto follows = [](int64_t offset, int64_t bytes, int64_t& end) {
    EXPECT_EQ(offset % 64, 0);
    EXPECT_GE(offset, end);
    end = offset + bytes;
  };
  for (int64_t i = 0; i < layout.num_layers(); ++i) {
    const LayerStreams& layer = layout.layer(i);
    follows(layout.offsets(i).window, layer.window.row_bytes() * layer.window_capacity, state_end);
    follows(layout.offsets(i).tail, layer.tail.row_bytes() * layer.tail_capacity, state_end);
    follows(layout.offsets(i).index_tail, layer.index_tail.row_bytes() * layer.index_tail_capacity,
            state_end);
    follows(layout.offsets(i).entry, layer.entry.row_bytes() * layout.rows_per_block(i), block_end);
    follows(layout.offsets(i).index_key, layer.index_key.row_bytes() * layout.rows_per_block(i),
            block_end);
  }
  EXPECT_LE(state_end, layout.state_bytes());
  EXPECT_LE(block_end, layout.block_bytes());
}

TEST(CacheLayout, RefusesWhatDoesNotFit) {
  const auto refused = [](const LayerStreams& layer, int64_t block_tokens, int64_t slack,
                          const char* text) {
    const Result<CacheLayout> layout = CacheLayout::create({layer}, block_tokens, slack, 0);
    ASSERT_FALSE(layout.has_value()) << text;
    EXPECT_EQ(layout.error().code(), StatusCode::invalid_argument);
    EXPECT_NE(layout.error().message().find(text), std::string::npos) << layout.error().message();
  };
  const tensor::RowLayout row = {.data_bytes = 8};
  refused({.ratio = 3, .entry = row}, 128, 0, "block_tokens 128, found 3");
  refused({.ratio = -4, .entry = row}, 128, 0, "found -4");
  refused({.ratio = 4}, 128, 0, "found ratio 4 with entry rows of 0");
  refused({.entry = row}, 128, 0, "found ratio 0");
  refused({.window = row, .window_capacity = 4}, 128, 4, "above the rewind slack of 4");
  refused({.tail = row}, 128, 0, "tail");
  refused({.index_tail_capacity = 4}, 128, 0, "index tail");
  refused({.window = {.data_bytes = -1}, .window_capacity = 4}, 128, 0, "found -1");
  refused({.window = {.data_bytes = int64_t{1} << 40}, .window_capacity = 4}, 128, 0, "window");
  refused({.window = row, .window_capacity = int64_t{1} << 40}, 128, 0, "found 1099511627776");
  refused({}, 0, 0, "block_tokens of 1");
  refused({}, 1, -1, "rewind_slack");
  EXPECT_FALSE(CacheLayout::create({}, 1, 0, 0).has_value());
}

}  // namespace
}  // namespace cachalot::cache
