#include "apps/training_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "apps/interrupts.h"
#include "apps/report.h"
#include "apps/terminal.h"
#include "apps/train_progress.h"
#include "base/closest.h"
#include "base/log.h"
#include "train/memory_plan.h"
#include "train/run_metrics.h"

namespace cachalot::apps {
namespace {

void print_row(std::string_view name, const std::string& text) {
  fmt::print("{:<11}{}\n", name, text);
}

// What the run has made, and what can be done with it.
void print_summary(const std::string& program, const train::TrainConfig& config,
                   const train::RunSummary& summary) {
  const std::string run = shell_word(config.run_dir);
  fmt::print("\n");
  print_row(summary.budget_spent ? "trained" : "stopped",
            fmt::format("{} steps, {} of {} tokens; {} this time", grouped(summary.step),
                        grouped(summary.tokens_seen), grouped(config.schedule.batch.total_tokens),
                        duration_text(summary.seconds)));
  if (summary.first_loss != 0) {
    print_row("loss",
              fmt::format("{:.4f} at the run's first step, {:.4f} in the mean of its last {}",
                          summary.first_loss, summary.last_loss, summary.last_steps));
  }
  for (const auto& [name, value] : summary.validation) {
    std::string before;
    for (const auto& [first_name, first] : summary.first_validation) {
      if (first_name == name) before = fmt::format(" ({:.4f} at the first evaluation)", first);
    }
    print_row("", fmt::format("{} {:.4f}{}", name, value, before));
  }
  print_row("model", summary.checkpoint);
  print_row("report", config.run_dir + "/report.html");
  if (!summary.budget_spent) {
    print_row("go on", fmt::format("{} train {}/run.toml --resume", program, run));
  } else if (!config.tokenizer.empty()) {
    print_row("try it", fmt::format("{} generate {} --prompt \"...\"", program, run));
    print_row("", fmt::format("{} chat {}", program, run));
  }
}

}  // namespace

Result<std::vector<std::string>> assignments_of(const CLI::App& command) {
  std::vector<std::string> options;
  for (const CLI::Option* option : command.get_options()) options.push_back(option->get_name());
  std::vector<std::string> out;
  for (const std::string& argument : command.remaining()) {
    if (!argument.starts_with("--") || argument.find('=') == std::string::npos) {
      const std::string near = closest(argument, options);
      return invalid_argument(
          fmt::format("{}: expected --key=value for a key of the configuration{}, found \"{}\"",
                      command.get_name(),
                      near.empty() ? "" : fmt::format(" or an option (\"{}\"?)", near), argument));
    }
    out.push_back(argument.substr(2));
  }
  return out;
}

Result<int> show_training(const train::TrainConfig& config, ThreadPool& pool, device::Isa isa) {
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, isa};
  CACHALOT_ASSIGN_OR_RETURN(const train::MemoryPlan plan, train::memory_plan(config));
  fmt::print("{}\n# {}\n", train::resolved_toml(config), "what this run is");
  fmt::print("{}", plan.to_text(train::machine_peak_gflops(ctx, config)));
  for (const std::string& note : train::budget_notes(config)) fmt::print("# note: {}\n", note);
  return 0;
}

Result<int> shown_training(const std::string& program, const train::TrainConfig& config,
                           const train::RunRequest& request, ThreadPool& pool, device::Isa isa) {
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, isa};
  TrainProgress progress(config.schedule.batch.total_tokens, config.log.every_steps);
  progress.watch_stop();
  CACHALOT_ASSIGN_OR_RETURN(const train::RunSummary summary,
                            train::run_training(ctx, config, request, progress));
  progress.clear();
  // The run is whole without its page.
  if (const Status status = write_report({config.run_dir}, ""); !status.ok())
    log_warning(fmt::format("report: {}", status.message()));
  print_summary(program, config, summary);
  return interrupts() > 0 && !summary.budget_spent ? kInterrupted : 0;
}

}  // namespace cachalot::apps
