#include "engine/runner.h"

#include <vector>

namespace cachalot::engine {
namespace {

// Owns what a ForwardBatch points to.
struct Batch {
  std::vector<int32_t> tokens;
  std::vector<std::vector<model::LayerCacheView>> views;
  std::vector<model::Segment> segments;

  void add(const StepInput& input, int64_t first_position, int64_t num_layers) {
    tokens.insert(tokens.end(), input.tokens.begin(), input.tokens.end());
    auto& layers = views.emplace_back();
    layers.reserve(static_cast<size_t>(num_layers));
    for (int64_t layer = 0; layer < num_layers; ++layer) {
      const cache::LayerViews v = input.sequence->views(layer);
      layers.push_back({v.window, v.entries, v.tail, v.index_keys, v.index_tail});
    }
    segments.push_back({first_position, static_cast<int64_t>(input.tokens.size()), {}});
  }

  model::ForwardBatch view() {
    for (size_t i = 0; i < segments.size(); ++i) segments[i].layers = views[i];
    return {tokens, segments};
  }
};

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
  Batch batch;
  for (const StepInput& input : inputs) {
    batch.add(input, input.sequence->num_tokens(), model_.config().num_all_layers());
  }
  model_.forward(ctx_, batch.view(), streams, probe);
  for (const StepInput& input : inputs)
    input.sequence->advance(static_cast<int64_t>(input.tokens.size()));
  return {};
}

Status Runner::forward_layer(int64_t layer, std::span<const StepInput> inputs, float* streams,
                             model::ForwardProbe* probe) {
  CACHALOT_RETURN_IF_ERROR(reserve(inputs));
  Batch batch;
  for (const StepInput& input : inputs) {
    batch.add(input, input.sequence->num_tokens(), model_.config().num_all_layers());
  }
  model_.forward_layer(ctx_, layer, batch.view(), streams, probe);
  return {};
}

Status Runner::mtp_forward(int64_t depth, std::span<const StepInput> inputs,
                           std::span<const int64_t> first_positions, const float* streams_in,
                           float* streams_out, model::ForwardProbe* probe) {
  Batch batch;
  for (size_t i = 0; i < inputs.size(); ++i) {
    batch.add(inputs[i], first_positions[i], model_.config().num_all_layers());
  }
  model_.mtp_forward(ctx_, depth, batch.view(), streams_in, streams_out, probe);
  return {};
}

}  // namespace cachalot::engine
