// The updates of one step of reinforcement learning: from answers and rewards to an optimizer step
// for each mini-batch.
// Source  reference/post-training 2.2, 2.4.
// Flat    an answer of advantage 0 has no gradient where beta is 0: it runs forward alone, and
//         stays in every count.
// Order   batch_layout.h; a cut into micro-batches shows in no bit.
// Memory  of a mini-batch's answers at a time: their sets and experts are read for it and go with
// it. Threads one owner.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "post/advantages.h"
#include "post/policy_batch.h"
#include "train/trainer.h"

namespace cachalot::post {

struct RlStepOptions {
  GrpoOptions grpo;
  AdvantageRule advantage;
  int64_t mini_batches = 1;
  int64_t micro_batch_tokens = 4096;
  bool keep_routing = true;
  bool keep_sampling_mask = true;
  bool shuffle = false;
  double learning_rate = 0;
};

struct RlStepReport {
  // Means over tokens, of all mini-batches; of `ratio` also of the first alone: 1, to the bit,
  // where the weights that sampled are those that train.
  double kl = 0, entropy = 0, ratio = 0, first_ratio = 0, clipped = 0;
  int64_t first_off_ratio = 0;  // tokens of the first mini-batch whose ratio is not 1
  double masked = 0;            // share of sequences
  double flat = 0;              // likewise
  double divergence = 0;        // mean over sequences
  double objective = 0;         // mean over tokens
  double grad_norm = 0;         // mean over mini-batches
  int64_t num_tokens = 0;       // labels
  train::StepResult last;
};

// reference: its model; null where beta is 0. Every answer of the log has ended and has its reward.
Result<RlStepReport> rl_step(train::Trainer& trainer, const model::Transformer* reference,
                             const RolloutPlan& plan, const RolloutLog& log,
                             const RlStepOptions& options);

}  // namespace cachalot::post
