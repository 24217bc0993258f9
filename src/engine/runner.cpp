#include "engine/runner.h"

#include <vector>

#include "cache/boundary_state.h"

namespace cachalot::engine {
namespace {

// Owns what a ForwardBatch points to.
class Batch {
 public:
  Batch(std::span<const StepInput> inputs, std::span<const int64_t> first_positions,
        int64_t num_layers)
      : first_position_(first_positions.begin(), first_positions.end()) {
    rows_.reserve(static_cast<size_t>(num_layers) * inputs.size());
    for (int64_t layer = 0; layer < num_layers; ++layer) {
      layer_rows_.push_back(rows_.data() + rows_.size());
      for (const StepInput& input : inputs) rows_.push_back(input.sequence->views(layer));
    }
    for (const StepInput& input : inputs) {
      tokens_.insert(tokens_.end(), input.tokens.begin(), input.tokens.end());
      first_row_.push_back(static_cast<int64_t>(tokens_.size()));
    }
  }
  Batch(const Batch&) = delete;

  model::ForwardBatch view() const {
    return {
        tokens_,
        {static_cast<int64_t>(first_position_.size()), first_row_.data(), first_position_.data()},
        layer_rows_.data()};
  }

 private:
  std::vector<int32_t> tokens_;
  std::vector<int64_t> first_row_ = {0};
  std::vector<int64_t> first_position_;
  std::vector<tensor::LayerRows> rows_;  // [layers][sequences]
  std::vector<const tensor::LayerRows*> layer_rows_;
};

std::vector<int64_t> lengths(std::span<const StepInput> inputs) {
  std::vector<int64_t> lengths;
  for (const StepInput& input : inputs) lengths.push_back(input.sequence->num_tokens());
  return lengths;
}

}  // namespace

Status Runner::reserve(std::span<const StepInput> inputs) {
  for (const StepInput& input : inputs) {
    CACHALOT_RETURN_IF_ERROR(input.sequence->reserve(input.sequence->num_tokens() +
                                                     static_cast<int64_t>(input.tokens.size())));
  }
  return {};
}

Status Runner::forward(std::span<const StepInput> inputs, float* streams,
                       model::ForwardProbe* probe) {
  CACHALOT_RETURN_IF_ERROR(reserve(inputs));
  const Batch batch(inputs, lengths(inputs), model_.config().num_all_layers());
  model_.forward(ctx_, batch.view(), streams, probe);
  for (const StepInput& input : inputs)
    input.sequence->advance(static_cast<int64_t>(input.tokens.size()));
  return {};
}

Status Runner::forward_layer(int64_t layer, std::span<const StepInput> inputs, float* streams,
                             model::ForwardProbe* probe) {
  CACHALOT_RETURN_IF_ERROR(reserve(inputs));
  const Batch batch(inputs, lengths(inputs), model_.config().num_all_layers());
  model_.forward_layer(ctx_, layer, batch.view(), streams, probe);
  return {};
}

void Runner::rebuild_state(cache::SequenceCache& sequence, std::span<const int32_t> tokens,
                           int64_t max_piece) {
  const StepInput input{&sequence, tokens};
  const int64_t first_position = sequence.num_tokens() - static_cast<int64_t>(tokens.size());
  const Batch batch({&input, 1}, {&first_position, 1}, model_.config().num_all_layers());
  model_.rebuild_rings(ctx_, batch.view(), cache::boundary_rows(sequence.layout()), max_piece);
}

Status Runner::mtp_forward(int64_t depth, std::span<const StepInput> inputs,
                           std::span<const int64_t> first_positions, const float* streams_in,
                           float* streams_out, model::ForwardProbe* probe) {
  const Batch batch(inputs, first_positions, model_.config().num_all_layers());
  model_.mtp_forward(ctx_, depth, batch.view(), streams_in, streams_out, probe);
  return {};
}

}  // namespace cachalot::engine
