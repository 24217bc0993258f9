#include "engine/batch_builder.h"

namespace cachalot::engine {

model::ForwardBatch BatchBuilder::build(std::span<const StepInput> inputs,
                                        std::span<const int64_t> first_positions) {
  tokens_.clear();
  first_row_.assign(1, 0);
  first_position_.clear();
  for (size_t i = 0; i < inputs.size(); ++i) {
    const StepInput& input = inputs[i];
    tokens_.insert(tokens_.end(), input.tokens.begin(), input.tokens.end());
    first_row_.push_back(static_cast<int64_t>(tokens_.size()));
    first_position_.push_back(first_positions.empty() ? input.sequence->num_tokens()
                                                      : first_positions[i]);
  }
  rows_.clear();
  for (int64_t layer = 0; layer < num_layers_; ++layer) {
    for (const StepInput& input : inputs) rows_.push_back(input.sequence->views(layer));
  }
  layer_rows_.clear();
  for (int64_t layer = 0; layer < num_layers_; ++layer)
    layer_rows_.push_back(rows_.data() + static_cast<size_t>(layer) * inputs.size());
  return {tokens_,
          {static_cast<int64_t>(inputs.size()), first_row_.data(), first_position_.data()},
          layer_rows_.data()};
}

model::ForwardBatch BatchBuilder::build(std::span<cache::SequenceCache* const> sequences,
                                        const int32_t* drawn) {
  static constexpr int32_t kAnyId[] = {0};
  inputs_.clear();
  for (cache::SequenceCache* sequence : sequences) inputs_.push_back({sequence, kAnyId});
  model::ForwardBatch batch = build(inputs_);
  batch.drawn = drawn;
  return batch;
}

}  // namespace cachalot::engine
