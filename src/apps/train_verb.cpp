// cachalot train: a run from TOML files, or what it would be.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "apps/interrupts.h"
#include "apps/report.h"
#include "apps/terminal.h"
#include "apps/train_progress.h"
#include "apps/verbs.h"
#include "base/log.h"
#include "device/isa.h"
#include "formats/accounting.h"
#include "train/memory_plan.h"
#include "train/run.h"
#include "train/run_metrics.h"

namespace cachalot::apps {
namespace {

struct TrainOptions {
  std::vector<std::string> files;
  bool dry_run = false;
  int threads = 0;
  train::RunRequest request;
};

// What is left of the command line must be "--key=value".
Result<std::vector<std::string>> assignments_of(const std::vector<std::string>& rest) {
  std::vector<std::string> out;
  for (const std::string& argument : rest) {
    if (!argument.starts_with("--") || argument.find('=') == std::string::npos) {
      return invalid_argument(fmt::format(
          "train: expected --key=value for a key of the configuration, found \"{}\"", argument));
    }
    out.push_back(argument.substr(2));
  }
  return out;
}

Status run(const TrainOptions& options, const std::vector<std::string>& rest) {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> assignments, assignments_of(rest));
  CACHALOT_ASSIGN_OR_RETURN(const train::TrainConfig config,
                            train::read_train_config(options.files, assignments));
  CACHALOT_ASSIGN_OR_RETURN(const device::Isa isa, device::chosen_isa());
  ThreadPool pool(options.threads);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, isa};
  if (options.dry_run) {
    CACHALOT_ASSIGN_OR_RETURN(const train::MemoryPlan plan, train::memory_plan(config));
    fmt::print("{}\n# {}\n", train::resolved_toml(config), "what this run is");
    fmt::print("{}", plan.to_text(train::machine_peak_gflops(ctx, config)));
    return {};
  }
  TrainProgress progress(config.schedule.batch.total_tokens, config.log.every_steps);
  watch_interrupts(2);
  CACHALOT_RETURN_IF_ERROR(train::run_training(ctx, config, options.request, progress));
  // The run is whole without its page.
  if (const Status status = write_report({config.run_dir}, ""); !status.ok())
    log_warning(fmt::format("report: {}", status.message()));
  return {};
}

}  // namespace

void add_train_verb(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand(
      "train",
      "train a model: TOML files laid over each other, then --key=value for single values "
      "(docs/training.md lists the keys)");
  command->add_option("files", options->files, "configuration files, later over earlier ones")
      ->required();
  command->add_flag(
      "--resume", options->request.resume,
      "go on from the newest checkpoint of run_dir; from the start where there is none");
  command->add_flag("--dry-run", options->dry_run,
                    "print the resolved configuration, memory, FLOPs and time, and stop");
  command->add_option("--stop-at-step", options->request.stop_at_step,
                      "end with a checkpoint after this step");
  command->add_option("--threads", options->threads, "0: one per usable core")
      ->check(CLI::Range(0, 1024));
  command->allow_extras();
  command->callback([command, options, exit_code] {
    *exit_code = exit_code_of(run(*options, command->remaining()));
  });
}

}  // namespace cachalot::apps
