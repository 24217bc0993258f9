// The loss on held-out text.
// Source  reference/training 6; bits per byte: nats of all targets / ln 2 / bytes that the targets
//         stand for; both by the targets' weights.
// Reads packs of the dataset in its own order from the first on, whatever was evaluated before, so
// two evaluations compare.
// Numerics  a pure function of parameters, data and sequence length.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/data_loader.h"
#include "train/training_model.h"

namespace cachalot::train {

// Bytes that each id of a vocabulary stands for; 0 for control tokens, which are no text. Empty:
// not known.
using TokenBytes = std::vector<int32_t>;

struct EvaluationConfig {
  int64_t sequence_length = 4096;
  int64_t max_tokens = 1 << 20;  // whole packs up to this, at least one
  int64_t micro_batch_tokens = 4096;
  bool dense_attention = false;
};

struct Evaluation {
  int64_t num_targets = 0;
  double loss = 0;           // mean over targets by weight, in nats; without any, no value
  double bits_per_byte = 0;  // 0: bytes are not known
};

// Errors  the dataset's.
Result<Evaluation> evaluate(device::ExecContext& ctx, TrainingModel& model,
                            const data::Dataset& dataset, const TokenBytes& token_bytes,
                            const EvaluationConfig& config);

}  // namespace cachalot::train
