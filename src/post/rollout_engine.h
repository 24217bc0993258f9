// An engine that samples with a trainer's weights, in memory: native FP4 where the trainer
// simulates it.
// Source  reference/post-training 9.1; reference/infrastructure 6 (I2), 5.5 (B6).
#pragma once

#include <memory>

#include "engine/engine.h"
#include "train/parameters.h"
#include "train/training_precision.h"

namespace cachalot::post {

struct RolloutEngineOptions {
  int64_t max_sequences = 8;
  int64_t max_context_tokens = 4096;  // prompt and answer; all sequences at once have room for it
  int64_t max_drafts = 0;
  int threads = 0;  // 0: one per usable core
};

// A copy of the masters as they are now, as inference reads them.
Result<std::unique_ptr<engine::LoadedModel>> served_model(const formats::ModelConfig& config,
                                                          const train::ParameterStore& parameters,
                                                          train::TrainingPrecision precision,
                                                          int threads);

Result<std::unique_ptr<engine::Engine>> make_rollout_engine(const formats::ModelConfig& config,
                                                            const train::ParameterStore& parameters,
                                                            train::TrainingPrecision precision,
                                                            const RolloutEngineOptions& options,
                                                            int64_t version);

}  // namespace cachalot::post
