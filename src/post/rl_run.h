// Reinforcement learning from its configuration to its last checkpoint: `cachalot rl`. A run on
// tasks (task_run.h), whose answers GRPO learns from (rl_step.h).
// Source  reference/post-training 2.2, 2.4, 3, 9.3.
// Files   beside a run on tasks' own RUN/reference: the reference policies of the checkpoints.
#pragma once

#include "post/rl_config.h"
#include "post/task_run.h"

namespace cachalot::post {

Result<TaskRunSummary> run_rl(device::ExecContext& ctx, const RlConfig& config,
                              const TaskRunRequest& request, TaskRunObserver& observer);

}  // namespace cachalot::post
