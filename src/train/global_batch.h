// What one optimizer step trains on: the packs of the data loader as labelled samples, cut into
// micro-batches, with the targets' weights that divide the losses. These are the whole batch's, so
// no cut changes a gradient. A token of weight 0 is no target.
// Source  reference/training 5.4, 6.3, 6.4.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/data_loader.h"
#include "train/training_model.h"

namespace cachalot::train {

// Owns tokens and labels. Move-only.
class GlobalBatch {
 public:
  // max_positions: positions of the step, num_packs * sequence_length or fewer; the last packs are
  // cut to it, so that a budget is met to the token. A micro-batch is as many whole packs as
  // micro_batch_tokens positions hold, at least one.
  GlobalBatch(std::vector<data::Pack> packs, int64_t sequence_length, int64_t max_positions,
              int64_t micro_batch_tokens);
  GlobalBatch(const GlobalBatch&) = delete;
  GlobalBatch(GlobalBatch&&) = default;

  int64_t num_micro_batches() const { return static_cast<int64_t>(first_sample_.size()) - 1; }
  std::span<const Sample> micro_batch(int64_t idx) const;

  int64_t num_tokens() const { return num_tokens_; }  // without what packs leave empty
  int64_t num_samples() const { return static_cast<int64_t>(samples_.size()); }
  int64_t lm_targets() const { return lm_targets_; }
  // Sums of the targets' weights, which are 1 where the packs have none.
  double lm_weight() const { return lm_weight_; }
  double mtp_weight() const { return mtp_weight_; }

 private:
  std::vector<std::vector<int32_t>> tokens_, labels_;  // by pack
  std::vector<std::vector<float>> weights_;
  std::vector<Sample> samples_;
  std::vector<size_t> first_sample_;  // of each micro-batch, and the end
  int64_t num_tokens_ = 0;
  int64_t lm_targets_ = 0;
  double lm_weight_ = 0;
  double mtp_weight_ = 0;
};

}  // namespace cachalot::train
