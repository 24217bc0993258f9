// Targets of packed samples: the next token of the same sample, whatever the cut into
// micro-batches.
#include "train/global_batch.h"

#include <gtest/gtest.h>

namespace cachalot::train {
namespace {

// Samples of the given lengths; token values count up from 100 through all of them.
data::Pack pack_of(const std::vector<int64_t>& lengths, int32_t first = 100) {
  data::Pack pack;
  for (const int64_t length : lengths) {
    data::Sample sample;
    sample.length = length;
    sample.pack_begin = static_cast<int64_t>(pack.tokens.size());
    pack.samples.push_back(sample);
    for (int64_t i = 0; i < length; ++i)
      pack.tokens.push_back(first + static_cast<int32_t>(pack.tokens.size()));
  }
  return pack;
}

TEST(GlobalBatch, LabelsAreTheNextTokensOfTheirSample) {
  std::vector<data::Pack> packs;
  packs.push_back(pack_of({3, 1, 4}));
  packs.push_back(pack_of({8}, 500));
  const GlobalBatch batch(std::move(packs), 8, 16, 8);
  ASSERT_EQ(batch.num_micro_batches(), 2);
  ASSERT_EQ(batch.num_samples(), 4);
  int64_t targets = 0;
  for (int64_t m = 0; m < 2; ++m) {
    for (const Sample& sample : batch.micro_batch(m)) {
      for (size_t i = 0; i + 1 < sample.tokens.size(); ++i) {
        EXPECT_EQ(sample.labels[i], sample.tokens[i + 1]);
        ++targets;
      }
      EXPECT_EQ(sample.labels.back(), -1);
    }
  }
  EXPECT_EQ(batch.lm_targets(), targets);
  EXPECT_EQ(targets, 2 + 0 + 3 + 7);
  EXPECT_EQ(batch.lm_weight(), 12);
  EXPECT_EQ(batch.mtp_weight(), 1 + 0 + 2 + 6);
}

TEST(GlobalBatch, WeightsAreTheTargets) {
  std::vector<data::Pack> packs;
  packs.push_back(pack_of({3, 2}));
  packs.back().weights = {9, 0, 0.5f, 7, 2};
  const GlobalBatch batch(std::move(packs), 8, 8, 8);
  const std::span<const Sample> samples = batch.micro_batch(0);
  ASSERT_EQ(samples.size(), 2U);
  // A token's weight stands where it is predicted; the first of a sample never is.
  EXPECT_EQ(samples[0].labels[0], -1);
  EXPECT_EQ(samples[0].labels[1], samples[0].tokens[2]);
  EXPECT_EQ(samples[0].weights[1], 0.5f);
  EXPECT_EQ(samples[1].labels[0], samples[1].tokens[1]);
  EXPECT_EQ(samples[1].weights[0], 2);
  EXPECT_EQ(batch.lm_targets(), 2);
  EXPECT_EQ(batch.lm_weight(), 2.5);
  EXPECT_EQ(batch.mtp_weight(), 0.5);
}

TEST(GlobalBatch, TheLastPackIsCutToTheBudget) {
  std::vector<data::Pack> packs;
  packs.push_back(pack_of({8}));
  packs.push_back(pack_of({3, 5}, 500));
  const GlobalBatch batch(std::move(packs), 8, 13, 16);
  EXPECT_EQ(batch.num_tokens(), 13);
  ASSERT_EQ(batch.num_micro_batches(), 1);
  EXPECT_EQ(batch.micro_batch(0).back().tokens.size(), 2U);
}

}  // namespace
}  // namespace cachalot::train
