#include "apps/task_run_command.h"

#include <fmt/format.h>

#include "apps/interrupts.h"
#include "apps/training_command.h"
#include "device/isa.h"

namespace cachalot::apps {
namespace {

class Progress : public post::TaskRunObserver {
 public:
  explicit Progress(std::span<const ShownValue> shown) : shown_(shown) {}

  void on_step(int64_t step, const train::MetricValues& values) override {
    const auto value = [&](std::string_view name) {
      for (const auto& [key, found] : values) {
        if (key == name) return found;
      }
      return 0.0;
    };
    fmt::print("step {:>5}", step);
    for (const ShownValue& one : shown_)
      fmt::print("  {} {}", one.label, fmt::format(fmt::runtime(one.format), value(one.metric)));
    fmt::print("  {:.1f} s\n",
               value("time/rollouts") + value("time/rewards") + value("time/updates"));
    std::fflush(stdout);
  }
  void on_event(int64_t step, std::string_view event, std::string_view detail) override {
    fmt::print("step {:>5}  {}: {}\n", step, event, detail);
    std::fflush(stdout);
  }
  bool wants_stop() override { return interrupts() > 0; }

 private:
  std::span<const ShownValue> shown_;
};

}  // namespace

void add_task_run_options(CLI::App* command, TaskRunOptions* options) {
  command->add_option("files", options->files, "configuration files, later over earlier ones")
      ->required();
  command->add_flag("--resume", options->request.resume,
                    "go on from the newest checkpoint of run_dir and the answers after it");
  command->add_flag("--dry-run", options->dry_run,
                    "print the configuration with defaults, and stop");
  command->add_option("--stop-at-step", options->request.stop_at_step,
                      "end with a checkpoint after this step");
}

Result<int> shown_task_run(
    const CLI::App& command, const TaskRunOptions& options, const post::TaskRunConfig& config,
    std::span<const ShownValue> shown,
    const std::function<Result<post::TaskRunSummary>(device::ExecContext&, post::TaskRunObserver&)>&
        run) {
  if (options.dry_run) {
    fmt::print("{}", config.resolved);
    return 0;
  }
  CACHALOT_ASSIGN_OR_RETURN(const device::Isa isa, device::chosen_isa());
  ThreadPool pool(options.threads);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, isa};
  Progress progress(shown);
  watch_interrupts(1);
  CACHALOT_ASSIGN_OR_RETURN(const post::TaskRunSummary summary, run(ctx, progress));
  fmt::print("{} after {} of {} steps; the last checkpoint: {}\n",
             summary.is_done ? "done" : "stopped", summary.step, config.steps, summary.checkpoint);
  if (!summary.is_done) {
    fmt::print("go on: {} {} {}/run.toml --resume\n", command.get_parent()->get_name(),
               command.get_name(), config.train.run_dir);
  }
  return interrupts() > 0 && !summary.is_done ? kInterrupted : 0;
}

}  // namespace cachalot::apps
