// On-policy distillation from its configuration to its last checkpoint: `cachalot distill`. A run
// on tasks (task_run.h), whose answers the student learns from by what teachers would have said at
// each token (distiller.h). Rewards are an evaluation: nothing is learnt from them.
// Source  reference/post-training 8, 9.2.
// Files   beside a run on tasks' own RUN/teachers: states, within a step.
// Errors  also: a teacher of another vocabulary or tokenizer, of another hidden size than the
//         others, or with too few positions for an answer; by its name.
#pragma once

#include <memory>

#include "post/distill_config.h"
#include "post/task_run.h"

namespace cachalot::post {

// Borrows the configuration.
std::unique_ptr<TaskLearner> distill_learner(const DistillConfig& config);

Result<TaskRunSummary> run_distillation(device::ExecContext& ctx, const DistillConfig& config,
                                        const TaskRunRequest& request, TaskRunObserver& observer);

}  // namespace cachalot::post
