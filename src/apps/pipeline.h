// `cachalot pipeline`: stages, each a command of this program, one after another: from a base model
// by way of specialists, reinforcement learning and distillation to an evaluation.
// Stages  A stage NAME works in RUN/NAME. It is done once its command has ended with 0; a pipeline
//         that is started again goes on with the first stage that is not. There a stage whose
//         directory has a checkpoint goes on by its own `resume`; another begins anew: RUN/NAME
//         goes first.
// Places  in commands: {run} is RUN; {model:NAME} the directory of that stage's last checkpoint.
// Files   RUN/pipeline.toml; RUN/NAME.log: what the commands have printed; RUN/NAME.done: seconds
//         and the command, so that a stage that was done by another one is told instead of
//         believed; RUN/report.html: all stages' reports on one page.
// Errors  invalid_argument of a configuration (keys as train/config_tree.h), a place that names no
//         stage before, a stage without a checkpoint that one needs; io_error: a command that
//         failed, with its stage, its exit code and its log's name. What is done stays done.
// Threads one owner; another process at the same RUN is refused.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace cachalot::apps {

struct PipelineStage {
  std::string name;
  std::vector<std::string> command;  // behind the program's name
  std::vector<std::string> resume;   // in its place; empty: none
};

struct PipelineConfig {
  std::string run_dir;
  std::vector<PipelineStage> stages;
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
