// Reinforcement learning from its configuration to its last checkpoint: `cachalot rl`.
// Source  reference/post-training 2.2, 2.4, 3, 9.3.
// A step  its tasks and seeds follow from its number; prompts_per_step groups of group_size answers
//         are sampled by the weights of the last step that is a multiple of weights_every_steps,
//         judged, and cut into mini_batches optimizer steps in the order of the answers. An answer
//         that reached its window is wrong: reward 0. Then its length's penalty is taken off.
// Files   RUN/checkpoints, RUN/metrics.jsonl and RUN/run.toml as a training run's; RUN/rollouts: a
//         log a step (rollout_log.h), rewards included, kept as far back as the oldest checkpoint;
//         RUN/reference: the reference policies of the checkpoints; RUN/samples.jsonl: of each step
//         its first task, answers and rewards, to read.
// Resume  from the newest checkpoint that is whole. Steps after it take their answers and rewards
//         from the logs: nothing that is in them is sampled or judged twice, and the run's values
//         and weights are those of an undisturbed one, bit for bit, but for times.
// Errors  of every part, with its own message; what has been written stays valid.
#pragma once

#include <string>

#include "device/exec_context.h"
#include "post/rl_config.h"
#include "train/run.h"

namespace cachalot::post {

struct RlRequest {
  bool resume = false;
  int64_t stop_at_step = -1;  // ends the run with a checkpoint after this step; -1: at its end
};

struct RlSummary {
  int64_t step = 0;
  bool is_done = false;
  std::string checkpoint;  // directory of the last
};

// What a person is shown. Calls come from the run's thread.
class RlObserver {
 public:
  virtual ~RlObserver() = default;
  virtual void on_step(int64_t step, const train::MetricValues& values) = 0;
  virtual void on_event(int64_t step, std::string_view event, std::string_view detail) = 0;
  // Asked between steps, and between two steps of the engine.
  virtual bool wants_stop() { return false; }
};

Result<RlSummary> run_rl(device::ExecContext& ctx, const RlConfig& config, const RlRequest& request,
                         RlObserver& observer);

}  // namespace cachalot::post
