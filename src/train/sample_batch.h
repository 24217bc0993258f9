// Samples of a pack as the input of the one forward: every sample is a sequence that starts at
// position 0 and reads its own rows alone, so windows, compressors and selections are cut at sample
// boundaries (reference/training 5.4).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "device/buffer.h"
#include "formats/config.h"
#include "model/forward_batch.h"
#include "model/precision.h"

namespace cachalot::train {

// Owns tokens and rows.
class SampleBatch {
 public:
  // lengths: of the samples; they sum to tokens.size(), none is 0.
  SampleBatch(const formats::ModelConfig& config, const model::Precision& precision,
              std::vector<int32_t> tokens, std::span<const int64_t> lengths);

  const model::ForwardBatch& batch() const { return batch_; }
  int64_t rows() const { return static_cast<int64_t>(tokens_.size()); }

 private:
  tensor::RowBlocks new_rows(int64_t num_rows, const tensor::RowLayout& layout);

  std::vector<int32_t> tokens_;
  std::vector<device::Buffer> rows_;
  std::vector<std::unique_ptr<std::byte*>> blocks_;
  std::vector<int64_t> first_row_ = {0};
  std::vector<int64_t> first_position_;
  std::vector<std::vector<tensor::LayerRows>> samples_;  // by layer, by sample
  std::vector<const tensor::LayerRows*> layer_rows_;
  model::ForwardBatch batch_;
};

}  // namespace cachalot::train
