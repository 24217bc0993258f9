#include "cache/cache_layout.h"

#include <gtest/gtest.h>

#include "cache/cache_testing.h"

namespace cachalot::cache {
namespace {

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
