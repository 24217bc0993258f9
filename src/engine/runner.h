// Runs the model over cached sequences: makes room, builds the ForwardBatch, and moves the
// sequences forward.
#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"
#include "device/exec_context.h"
#include "engine/batch_builder.h"
#include "model/transformer.h"

namespace cachalot::engine {

// Borrows the model and the context. Threads: one owner.
class Runner {
 public:
  Runner(const model::Transformer& model, device::ExecContext& ctx)
      : model_(model), ctx_(ctx), builder_(model.config().num_all_layers()) {}

  const model::Transformer& model() const { return model_; }
  device::ExecContext& context() { return ctx_; }

  // Runs the inputs as one batch after each sequence's tokens so far. streams: [all tokens,
  // num_streams, hidden_size]. Errors: resource_exhausted where blocks are out; then no sequence
  // has changed its length.
  Status forward(std::span<const StepInput> inputs, float* streams,
                 model::ForwardProbe* probe = nullptr);

  // The same of a token for each sequence that an op before has drawn (model/forward_batch.h).
  Status forward_drawn(std::span<cache::SequenceCache* const> sequences, const int32_t* drawn,
                       float* streams);

  // One decoder layer alone over streams that are given, in place; lengths do not change.
  Status forward_layer(int64_t layer, std::span<const StepInput> inputs, float* streams,
                       model::ForwardProbe* probe);

  // The MTP block over tokens that the main model has processed: input i's tokens are those AFTER
  // positions first_positions[i], first_positions[i] + 1, ..., whose streams stand in streams_in.
  // Lengths do not change.
  Status mtp_forward(int64_t depth, std::span<const StepInput> inputs,
                     std::span<const int64_t> first_positions, const float* streams_in,
                     float* streams_out, model::ForwardProbe* probe = nullptr);

  // Makes the state of a sequence that a prefix cache has found without one: `tokens` are those
  // before its end, the first at rebuild_from (cache/prefix_cache.h). Reads its compressed rows and
  // writes none. The MTP block's window stays empty: drafts are worse until it has filled.
  // max_piece: tokens that run at once.
  void rebuild_state(cache::SequenceCache& sequence, std::span<const int32_t> tokens,
                     int64_t max_piece);

 private:
  // Makes room for the inputs' tokens.
  static Status reserve(std::span<const StepInput> inputs);

  const model::Transformer& model_;
  device::ExecContext& ctx_;
  BatchBuilder builder_;
};

}  // namespace cachalot::engine
