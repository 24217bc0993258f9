// cachalot rl: reinforcement learning from TOML files.
#include <CLI/CLI.hpp>
#include <memory>

#include "apps/command_line.h"
#include "apps/task_run_command.h"
#include "apps/training_command.h"
#include "apps/verbs.h"
#include "post/rl_run.h"

namespace cachalot::apps {
namespace {

// Returns the exit code.
Result<int> run(const TaskRunOptions& options, const CLI::App& command) {
  static constexpr ShownValue kShown[] = {{"reward", "reward/mean", "{:.3f}"},
                                          {"correct", "reward/correct", "{:.3f}"},
                                          {"truncated", "reward/truncated", "{:.3f}"},
                                          {"length", "length/mean", "{:.1f}"},
                                          {"kl", "policy/kl", "{:.2e}"},
                                          {"entropy", "policy/entropy", "{:.3f}"},
                                          {"ratio", "policy/ratio", "{:.4f}"}};
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> assignments, assignments_of(command));
  CACHALOT_ASSIGN_OR_RETURN(const post::RlConfig config,
                            post::read_rl_config(options.files, assignments));
  return shown_task_run(command, options, config.run, kShown,
                        [&](device::ExecContext& ctx, const post::TaskRunRequest& request,
                            post::TaskRunObserver& observer) {
                          return post::run_rl(ctx, config, request, observer);
                        });
}

}  // namespace

void add_rl_verb(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<TaskRunOptions>();
  CLI::App* command = app.add_subcommand(
      "rl",
      "reinforcement learning (GRPO) on tasks with checkers, from TOML files laid over each other; "
      "--key=value sets single values (docs/rl.md lists tasks and keys)");
  set_example(command, "rl rl.toml --run_dir=runs/rl");
  add_task_run_options(command, options.get());
  finish_training_verb(command, options, run, exit_code);
}

}  // namespace cachalot::apps
