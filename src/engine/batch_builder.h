// The input of a step's forward call, from sequences and their next tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cache/sequence_cache.h"
#include "model/forward_batch.h"

namespace cachalot::engine {

// The next tokens of one sequence.
struct StepInput {
  cache::SequenceCache* sequence;
  std::span<const int32_t> tokens;
};

// Owns what the batch points to, filled in place: after steps of the largest size it does not
// allocate. Threads: one owner.
class BatchBuilder {
 public:
  explicit BatchBuilder(int64_t num_layers) : num_layers_(num_layers) {}

  // Input i starts at first_positions[i]; at its sequence's length where they are empty. Valid
  // until the next call, and until a sequence's blocks change.
  model::ForwardBatch build(std::span<const StepInput> inputs,
                            std::span<const int64_t> first_positions = {});
  // The same of a token for each sequence, drawn by an op before (model/forward_batch.h).
  model::ForwardBatch build(std::span<cache::SequenceCache* const> sequences, const int32_t* drawn);

 private:
  int64_t num_layers_;
  std::vector<StepInput> inputs_;
  std::vector<int32_t> tokens_;
  std::vector<int64_t> first_row_;
  std::vector<int64_t> first_position_;
  std::vector<tensor::LayerRows> rows_;  // [layers][sequences]
  std::vector<const tensor::LayerRows*> layer_rows_;
};

}  // namespace cachalot::engine
