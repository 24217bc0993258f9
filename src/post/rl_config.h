// What a run of reinforcement learning is: a run on tasks (task_config.h), and of its table [rl]
// the keys of the objective.
// Source  reference/post-training 2.2.
#pragma once

#include "post/advantages.h"
#include "post/grpo.h"
#include "post/task_config.h"

namespace cachalot::post {

struct RlConfig {
  TaskRunConfig run;
  int64_t reference_every_steps = 400;  // the policy becomes the reference; 0: never again
  bool keep_routing = true;
  bool keep_sampling_mask = true;
  bool shuffle = false;  // of a step's answers over its mini-batches, by seed and step
  GrpoOptions grpo;
  AdvantageRule advantage;
};

Result<RlConfig> read_rl_config(std::span<const std::string> files,
                                std::span<const std::string> assignments);

}  // namespace cachalot::post
