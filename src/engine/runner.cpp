#include "engine/runner.h"

#include "cache/boundary_state.h"

namespace cachalot::engine {

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
  model_.forward(ctx_, builder_.build(inputs), streams, probe);
  for (const StepInput& input : inputs)
    input.sequence->advance(static_cast<int64_t>(input.tokens.size()));
  return {};
}

Status Runner::forward_drawn(std::span<cache::SequenceCache* const> sequences, const int32_t* drawn,
                             float* streams) {
  for (cache::SequenceCache* sequence : sequences)
    CACHALOT_RETURN_IF_ERROR(sequence->reserve(sequence->num_tokens() + 1));
  model_.forward(ctx_, builder_.build(sequences, drawn), streams);
  for (cache::SequenceCache* sequence : sequences) sequence->advance(1);
  return {};
}

Status Runner::forward_layer(int64_t layer, std::span<const StepInput> inputs, float* streams,
                             model::ForwardProbe* probe) {
  CACHALOT_RETURN_IF_ERROR(reserve(inputs));
  model_.forward_layer(ctx_, layer, builder_.build(inputs), streams, probe);
  return {};
}

void Runner::rebuild_state(cache::SequenceCache& sequence, std::span<const int32_t> tokens,
                           int64_t max_piece) {
  const StepInput input{&sequence, tokens};
  const int64_t first_position = sequence.num_tokens() - static_cast<int64_t>(tokens.size());
  model_.rebuild_rings(ctx_, builder_.build({&input, 1}, {&first_position, 1}),
                       cache::boundary_rows(sequence.layout()), max_piece);
}

Status Runner::mtp_forward(int64_t depth, std::span<const StepInput> inputs,
                           std::span<const int64_t> first_positions, const float* streams_in,
                           float* streams_out, model::ForwardProbe* probe) {
  model_.mtp_forward(ctx_, depth, builder_.build(inputs, first_positions), streams_in, streams_out,
                     probe);
  return {};
}

}  // namespace cachalot::engine
