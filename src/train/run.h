// A training run from its configuration to its last checkpoint: `cachalot train`.
// Files   RUN/checkpoints (checkpoint.h), RUN/metrics.jsonl (metrics.h), RUN/run.toml (the resolved
//         configuration), RUN/tensorboard (tensorboard_writer.h; log.tensorboard).
// Resume  goes on from the newest checkpoint that is whole; checkpoints and the values of
//         metrics.jsonl are then those of an undisturbed run, bit for bit, but for times. The log
//         tells of each resumption. Without `resume` a directory that holds a run is refused, and
//         always one that another process is at (run_lock.h).
// Targets a data set none of whose positions has one (documents of one token) is refused;
//         validation of such has no value, nor has a step's loss, and it is said.
// Spikes  told in the log; with anticipation.enabled the run goes back to a checkpoint at least
//         delta_steps + rollback_margin_steps before, and routes by stale choices for hold_steps
//         from there (reference/training 7.1).
// Tokenizers  of all corpora, and the one that the configuration names, are one: another is an
//         error before the first step, with both fingerprints.
// Said before the first step of a new run: its RunBudget, then as events "note" what budget_notes()
//         and a look at the corpora find.
// Shown at each evaluation, as an event "sample": how the model goes on from the first held-out
//         document's beginning; of a conversation, what it answers first.
// Losses  that are no number end the run, unless a rollback bridges them: an error with step, loss
//         and value; nothing is saved after it.
// Errors  of every part, with its own message; what has been written stays valid.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "device/exec_context.h"
#include "train/metrics.h"
#include "train/train_config.h"
#include "train/trainer.h"

namespace cachalot::train {

struct RunBudget {
  int64_t tokens = 0;
  double passes = 0;   // over all corpora together
  double seconds = 0;  // an estimate
};

// What a person is shown. Calls come from the run's thread.
class RunObserver {
 public:
  virtual ~RunObserver() = default;
  virtual void on_step(const StepResult& result, const MetricValues& values) = 0;
  virtual void on_budget(const RunBudget& budget) { (void)budget; }
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

// Where a run has come to.
struct RunSummary {
  int64_t step = 0;
  int64_t tokens_seen = 0;
  bool budget_spent = false;
  double seconds = 0;  // of this start
  // Of the whole run, earlier starts with it.
  double first_loss = 0;  // of the first step with targets; 0: there was none
  double last_loss = 0;   // mean of the last steps with targets, last_steps of them, at most 10
  int64_t last_steps = 0;
  MetricValues first_validation;  // empty: there was one evaluation, or none
  MetricValues validation;        // of the last evaluation
  std::string checkpoint;         // directory of the last
};

Result<RunSummary> run_training(device::ExecContext& ctx, const TrainConfig& config,
                                const RunRequest& request, RunObserver& observer);

}  // namespace cachalot::train
