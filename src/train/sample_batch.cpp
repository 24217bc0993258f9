#include "train/sample_batch.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace cachalot::train {

tensor::RowBlocks SampleBatch::new_rows(int64_t num_rows, const tensor::RowLayout& layout) {
  num_rows = std::max<int64_t>(num_rows, 1);
  rows_.emplace_back(num_rows * layout.row_bytes());
  blocks_.push_back(std::make_unique<std::byte*>(rows_.back().data()));
  return {blocks_.back().get(), num_rows, layout};
}

SampleBatch::SampleBatch(const formats::ModelConfig& config, const model::Precision& precision,
                         std::vector<int32_t> tokens, std::span<const int64_t> lengths)
    : tokens_(std::move(tokens)) {
  CACHALOT_CHECK(std::accumulate(lengths.begin(), lengths.end(), int64_t{0}) == rows());
  const std::vector<formats::LayerConfig> layers = formats::layer_configs(config);
  const tensor::RowLayout kv =
      tensor::kv_row_layout(precision.kv, config.head_dim, config.qk_rope_head_dim);
  const tensor::RowLayout index = tensor::index_row_layout(precision.index, config.index_head_dim);
  for (const formats::LayerConfig& layer : layers) {
    auto& samples = samples_.emplace_back(lengths.size());
    for (size_t i = 0; i < lengths.size(); ++i) {
      if (layer.ratio > 0) samples[i].entries = new_rows(lengths[i] / layer.ratio, kv);
      if (layer.attention == formats::AttentionKind::csa)
        samples[i].index_keys = new_rows(lengths[i] / layer.ratio, index);
    }
  }
  for (const auto& samples : samples_) layer_rows_.push_back(samples.data());
  for (const int64_t length : lengths) {
    CACHALOT_CHECK(length > 0);
    first_row_.push_back(first_row_.back() + length);
  }
  first_position_.resize(lengths.size());
  batch_ = {tokens_,
            {static_cast<int64_t>(lengths.size()), first_row_.data(), first_position_.data()},
            layer_rows_.data()};
}

}  // namespace cachalot::train
