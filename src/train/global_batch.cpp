#include "train/global_batch.h"

#include <algorithm>

#include "data/labels.h"

namespace cachalot::train {

GlobalBatch::GlobalBatch(std::vector<data::Pack> packs, int64_t sequence_length,
                         int64_t max_positions, int64_t micro_batch_tokens) {
  const int64_t packs_per_call = std::max<int64_t>(1, micro_batch_tokens / sequence_length);
  int64_t left = max_positions, num_packs = 0;
  for (data::Pack& pack : packs) {
    const auto length = std::min(left, static_cast<int64_t>(pack.tokens.size()));
    left -= std::min(left, sequence_length);
    if (length == 0) break;
    pack.tokens.resize(static_cast<size_t>(length));
    std::vector<int64_t> begins = pack.sample_begins();
    while (begins.back() >= length) begins.pop_back();
    if (num_packs++ % packs_per_call == 0) first_sample_.push_back(samples_.size());
    const auto& tokens = tokens_.emplace_back(std::move(pack.tokens));
    auto& labels = labels_.emplace_back(data::shifted_labels(tokens, begins, 1));
    auto& weights = weights_.emplace_back();
    if (!pack.weights.empty()) {
      // Of the token that a position predicts.
      weights.assign(pack.weights.begin() + 1, pack.weights.begin() + length);
      weights.push_back(0);
      for (size_t i = 0; i < weights.size(); ++i)
        if (weights[i] == 0) labels[i] = data::kNoLabel;
    }
    for (size_t i = 0; i < begins.size(); ++i) {
      const auto begin = static_cast<size_t>(begins[i]);
      const size_t end = i + 1 < begins.size() ? static_cast<size_t>(begins[i + 1]) : tokens.size();
      samples_.push_back({std::span(tokens).subspan(begin, end - begin),
                          std::span(labels).subspan(begin, end - begin),
                          weights.empty() ? std::span<const float>()
                                          : std::span(weights).subspan(begin, end - begin)});
    }
    num_tokens_ += length;
  }
  first_sample_.push_back(samples_.size());
  for (const Sample& sample : samples_) {
    for (size_t i = 0; i < sample.labels.size(); ++i) {
      if (sample.labels[i] < 0) continue;
      const double weight = sample.weights.empty() ? 1 : sample.weights[i];
      ++lm_targets_;
      lm_weight_ += weight;
      // The MTP block's row i predicts what is the label of row i + 1.
      if (i > 0) mtp_weight_ += weight;
    }
  }
}

std::span<const Sample> GlobalBatch::micro_batch(int64_t idx) const {
  return std::span(samples_).subspan(first_sample_[idx],
                                     first_sample_[idx + 1] - first_sample_[idx]);
}

}  // namespace cachalot::train
