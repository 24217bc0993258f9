// cachalot distill: a student learns from teachers on its own answers, from TOML files.
#include <CLI/CLI.hpp>
#include <memory>

#include "apps/command_line.h"
#include "apps/task_run_command.h"
#include "apps/training_command.h"
#include "apps/verbs.h"
#include "post/distill_run.h"

namespace cachalot::apps {
namespace {

// Returns the exit code.
Result<int> run(const TaskRunOptions& options, const CLI::App& command) {
  static constexpr ShownValue kShown[] = {{"divergence", "distill/divergence", "{:.4f}"},
                                          {"correct", "reward/correct", "{:.3f}"},
                                          {"truncated", "reward/truncated", "{:.3f}"},
                                          {"length", "length/mean", "{:.1f}"},
                                          {"entropy", "policy/entropy", "{:.3f}"}};
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> assignments, assignments_of(command));
  CACHALOT_ASSIGN_OR_RETURN(const post::DistillConfig config,
                            post::read_distill_config(options.files, assignments));
  return shown_task_run(command, options, config.run, kShown,
                        [&](device::ExecContext& ctx, const post::TaskRunRequest& request,
                            post::TaskRunObserver& observer) {
                          return post::run_distillation(ctx, config, request, observer);
                        });
}

}  // namespace

void add_distill_verb(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<TaskRunOptions>();
  CLI::App* command = app.add_subcommand(
      "distill",
      "one student of many teachers, by what they would say at each token of its answers, from "
      "TOML files laid over each other; --key=value sets single values (docs/distill.md)");
  set_example(command, "distill configs/distill.toml --run_dir=runs/student");
  add_task_run_options(command, options.get());
  finish_training_verb(command, options, run, exit_code);
}

}  // namespace cachalot::apps
