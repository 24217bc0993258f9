// `cachalot pipeline`: stages, each a command of this program, one after another: from a base model
// by way of specialists, reinforcement learning and distillation to an evaluation.
// Stages  A stage NAME works in RUN/NAME. It is done once its command has ended with 0; a pipeline
//         that is started again goes on with the first stage that is not. There a stage whose
//         directory has a checkpoint goes on by its own `resume`; another begins anew: RUN/NAME
//         goes first.
// Places  in commands: pipeline_places.h.
// Rounds  A stage with a `score` (an evaluation that ends in JSON) is done in rounds of round_steps
//         steps, by `command`, then by `resume`; after each its newest checkpoint is scored, until
//         the best score, which is above 0, is `patience` rounds old, or `rounds` have been.
//         {model:NAME} then is the best round's.
// Lanes   Neighbours with a `lane` are done in order within it, `parallel` lanes at a time.
// Files   RUN/pipeline.toml; RUN/NAME.log: what the commands have printed; RUN/NAME.rounds;
//         RUN/NAME.done: seconds and the command, so that a stage that was done by another one is
//         told instead of believed; RUN/report.html: on one page what the evaluations come to,
//         whether the claims hold (pipeline_scores.h), and all stages' reports.
// Errors  invalid_argument of a configuration (keys as train/config_tree.h), a place that names no
//         stage before, a stage without a checkpoint that one needs; io_error: a command that
//         failed, with its stage, its exit code and its log's name. What is done stays done.
// Threads one owner; another process at the same RUN is refused. wants_stop() may be called from
//         several at once, show() from one at a time.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "apps/pipeline_scores.h"
#include "base/status.h"

namespace cachalot::apps {

struct PipelineStage {
  std::string name;
  std::vector<std::string> command;  // behind the program's name
  std::vector<std::string> resume;   // in its place; empty: none
  std::string lane;                  // empty: it waits for all before, and all behind for it
  // In rounds, where there is a score.
  std::vector<std::string> score;
  int64_t round_steps = 0;
  int64_t rounds = 20;
  int64_t patience = 2;
};

struct PipelineConfig {
  std::string run_dir;
  std::vector<PipelineStage> stages;
  std::vector<PipelineClaim> claims;
  int64_t parallel = 1;
  std::string resolved;  // TOML
};

Result<PipelineConfig> read_pipeline_config(std::span<const std::string> files,
                                            std::span<const std::string> assignments);

struct PipelineRequest {
  std::string program;  // that runs the commands
  std::function<void(const std::string& line)> show;
  std::function<bool()> wants_stop;  // asked where a command has ended
};

// Whether all stages are done; false: stopped.
Result<bool> run_pipeline(const PipelineConfig& config, const PipelineRequest& request);

}  // namespace cachalot::apps
