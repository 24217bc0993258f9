// A training run from its configuration to its last checkpoint: `cachalot train`.
// Files   RUN/checkpoints (checkpoint.h), RUN/metrics.jsonl (metrics.h), RUN/run.toml (the resolved
//         configuration), RUN/tensorboard (tensorboard_writer.h; log.tensorboard).
// Resume  goes on from the newest checkpoint that is whole; checkpoints and the values of
//         metrics.jsonl are then those of an undisturbed run, bit for bit, but for times. The log
//         tells of each resumption. Without `resume` a directory that holds a run is refused.
// Spikes  told in the log; with anticipation.enabled the run goes back to a checkpoint at least
//         delta_steps + rollback_margin_steps before, and routes by stale choices for hold_steps
//         from there (reference/training 7.1).
// Losses  that are no number end the run, unless a rollback bridges them: an error with step, loss
//         and value; nothing is saved after it.
// Errors  of every part, with its own message; what has been written stays valid.
#pragma once

#include <cstdint>
#include <string_view>

#include "device/exec_context.h"
#include "train/metrics.h"
#include "train/train_config.h"
#include "train/trainer.h"

namespace cachalot::train {

// What a person is shown. Calls come from the run's thread.
class RunObserver {
 public:
  virtual ~RunObserver() = default;
  virtual void on_step(const StepResult& result, const MetricValues& values) = 0;
  virtual void on_event(int64_t step, std::string_view event, std::string_view detail) = 0;
  // Asked after every step; true ends the run with a checkpoint.
  virtual bool wants_stop() { return false; }
};

struct RunRequest {
  bool resume = false;
  // For tests of the controller: this step's head is 50 times too large, unless it routes by stale
  // choices. -1: none.
  int64_t provoked_step = -1;
  int64_t stop_at_step =
      -1;  // ends the run with a checkpoint after this step; -1: at the budget's end
};

Status run_training(device::ExecContext& ctx, const TrainConfig& config, const RunRequest& request,
                    RunObserver& observer);

}  // namespace cachalot::train
