#include "data/labels.h"

#include <gtest/gtest.h>

#include "data/streams.h"

namespace cachalot::data {
namespace {

TEST(Labels, AreTheNextTokenOfTheSample) {
  const std::vector<int32_t> tokens = {10, 11, 12, 20, 30, 31, 32, 33};
  const std::vector<int64_t> begins = {0, 3, 4};
  EXPECT_EQ(shifted_labels(tokens, begins, 1),
            (std::vector<int32_t>{11, 12, -1, -1, 31, 32, 33, -1}));
  EXPECT_EQ(shifted_labels(tokens, begins, 2),
            (std::vector<int32_t>{12, -1, -1, -1, 32, 33, -1, -1}));
  EXPECT_EQ(shifted_labels(tokens, begins, 9), std::vector<int32_t>(8, -1));
  EXPECT_TRUE(shifted_labels({}, {}, 1).empty());
}

// Each token carries its sample's number, so a target from another sample would show.
TEST(Labels, NoTargetCrossesASampleBoundary) {
  RngStream rng = data_stream(3, DataUse::tasks, 0, 0, 0);
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> tokens;
    std::vector<int64_t> begins;
    const int64_t num_samples = 1 + static_cast<int64_t>(draw_below(rng, 8));
    std::vector<int64_t> lengths;
    for (int64_t s = 0; s < num_samples; ++s) {
      begins.push_back(static_cast<int64_t>(tokens.size()));
      lengths.push_back(1 + static_cast<int64_t>(draw_below(rng, 9)));
      for (int64_t i = 0; i < lengths.back(); ++i) {
        tokens.push_back(static_cast<int32_t>(s * 100 + i));
      }
    }
    for (const int64_t shift : {1, 2, 3, 4}) {
      const std::vector<int32_t> labels = shifted_labels(tokens, begins, shift);
      ASSERT_EQ(labels.size(), tokens.size());
      for (size_t i = 0; i < tokens.size(); ++i) {
        const int32_t sample = tokens[i] / 100, place = tokens[i] % 100;
        const bool inside = place + shift < lengths[static_cast<size_t>(sample)];
        ASSERT_EQ(labels[i], inside ? tokens[i] + shift : kNoLabel);
      }
    }
  }
}

}  // namespace
}  // namespace cachalot::data
