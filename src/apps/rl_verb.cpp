// cachalot rl: reinforcement learning from TOML files.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "apps/command_line.h"
#include "apps/interrupts.h"
#include "apps/training_command.h"
#include "apps/verbs.h"
#include "device/isa.h"
#include "post/rl_run.h"

namespace cachalot::apps {
namespace {

struct RlOptions {
  std::vector<std::string> files;
  bool dry_run = false;
  int threads = 0;
  post::RlRequest request;
};

class RlProgress : public post::RlObserver {
 public:
  void on_step(int64_t step, const train::MetricValues& values) override {
    const auto value = [&](std::string_view name) {
      for (const auto& [key, found] : values) {
        if (key == name) return found;
      }
      return 0.0;
    };
    fmt::print(
        "step {:>5}  reward {:.3f}  correct {:.3f}  truncated {:.3f}  length {:.1f}  kl {:.2e}  "
        "entropy {:.3f}  ratio {:.4f}  {:.1f} s\n",
        step, value("reward/mean"), value("reward/correct"), value("reward/truncated"),
        value("length/mean"), value("policy/kl"), value("policy/entropy"), value("policy/ratio"),
        value("time/rollouts") + value("time/rewards") + value("time/updates"));
    std::fflush(stdout);
  }
  void on_event(int64_t step, std::string_view event, std::string_view detail) override {
    fmt::print("step {:>5}  {}: {}\n", step, event, detail);
    std::fflush(stdout);
  }
  bool wants_stop() override { return interrupts() > 0; }
};

// Returns the exit code.
Result<int> run(const RlOptions& options, const CLI::App& command) {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> assignments, assignments_of(command));
  CACHALOT_ASSIGN_OR_RETURN(const post::RlConfig config,
                            post::read_rl_config(options.files, assignments));
  if (options.dry_run) {
    fmt::print("{}", config.resolved);
    return 0;
  }
  CACHALOT_ASSIGN_OR_RETURN(const device::Isa isa, device::chosen_isa());
  ThreadPool pool(options.threads);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, isa};
  RlProgress progress;
  watch_interrupts(1);
  CACHALOT_ASSIGN_OR_RETURN(const post::RlSummary summary,
                            post::run_rl(ctx, config, options.request, progress));
  fmt::print("{} after {} of {} steps; the last checkpoint: {}\n",
             summary.is_done ? "done" : "stopped", summary.step, config.steps, summary.checkpoint);
  if (!summary.is_done)
    fmt::print("go on: {} rl {}/run.toml --resume\n", command.get_parent()->get_name(),
               config.train.run_dir);
  return interrupts() > 0 && !summary.is_done ? kInterrupted : 0;
}

}  // namespace

void add_rl_verb(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<RlOptions>();
  CLI::App* command = app.add_subcommand(
      "rl",
      "reinforcement learning (GRPO) on tasks with checkers, from TOML files laid over each other; "
      "--key=value sets single values (docs/rl.md lists tasks and keys)");
  set_example(command, "rl rl.toml --run_dir=runs/rl");
  command->add_option("files", options->files, "configuration files, later over earlier ones")
      ->required();
  command->add_flag("--resume", options->request.resume,
                    "go on from the newest checkpoint of run_dir and the answers after it");
  command->add_flag("--dry-run", options->dry_run,
                    "print the configuration with defaults, and stop");
  command->add_option("--stop-at-step", options->request.stop_at_step,
                      "end with a checkpoint after this step");
  finish_training_verb(command, options, run, exit_code);
}

}  // namespace cachalot::apps
