// What a run will need, before it runs: `cachalot train --dry-run`.
// Terms   masters, gradients (the embedding's and the head's twice, for the MTP block), moments of
//         the optimizer's groups, weights packed for forward and backward; what the pass over the
//         largest micro-batch takes at its peak, after recompute (pass_memory.h).
// Numerics  bytes of the arrays that the training pass takes, an estimate: alignment, scratch of
//         single ops and the data loader's window are left out.
#pragma once

#include <cstdint>
#include <string>

#include "train/pass_memory.h"
#include "train/train_config.h"

namespace cachalot::train {

struct MemoryPlan {
  int64_t parameters = 0;
  int64_t active_parameters = 0;  // of the main network, for one token
  int64_t master_bytes = 0;
  int64_t gradient_bytes = 0;
  int64_t moment_bytes = 0;
  int64_t packed_bytes = 0;
  int64_t micro_batch_tokens = 0;  // the most positions of one
  PassMemory pass;
  int64_t checkpoint_bytes = 0;
  int64_t num_steps = 0;
  int64_t total_tokens = 0;
  double flops = 0;  // of the whole run

  double total_bytes() const;
  // Of the whole run on a machine of this peak, an estimate.
  double seconds(double peak_gflops) const;
  // Lines "# name  value", a time estimate for a machine of this peak among them.
  std::string to_text(double peak_gflops) const;
};

Result<MemoryPlan> memory_plan(const TrainConfig& config);

// Steps from `seen` tokens on, the one there included, up to the first that has other tokens or
// follows a stage of another sequence length; the budget is not spent there (CHECK). Quick however
// many they are.
int64_t equal_steps(const optim::TrainingSchedule& schedule, int64_t seen);

}  // namespace cachalot::train
