// cachalot train: a run from TOML files, or what it would be.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "apps/command_line.h"
#include "apps/interrupts.h"
#include "apps/report.h"
#include "apps/terminal.h"
#include "apps/train_progress.h"
#include "apps/train_texts.h"
#include "apps/verbs.h"
#include "base/closest.h"
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
  std::string preset;
  std::vector<std::string> texts;
  bool dry_run = false;
  int threads = 0;
  train::RunRequest request;
};

// What is left of the command line must be "--key=value". `options`: the verb's own.
Result<std::vector<std::string>> assignments_of(const std::vector<std::string>& rest,
                                                const std::vector<std::string>& options) {
  std::vector<std::string> out;
  for (const std::string& argument : rest) {
    if (!argument.starts_with("--") || argument.find('=') == std::string::npos) {
      const std::string near = closest(argument, options);
      return invalid_argument(
          fmt::format("train: expected --key=value for a key of the configuration{}, found \"{}\"",
                      near.empty() ? "" : fmt::format(" or an option (\"{}\"?)", near), argument));
    }
    out.push_back(argument.substr(2));
  }
  return out;
}

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
    print_row("loss", fmt::format("{:.4f} at its first step, {:.4f} at its last",
                                  summary.first_loss, summary.last_loss));
  }
  for (const auto& [name, value] : summary.validation)
    print_row("", fmt::format("{} {:.4f}", name, value));
  print_row("model", summary.checkpoint);
  print_row("report", config.run_dir + "/report.html");
  if (!summary.budget_spent) {
    print_row("go on", fmt::format("{} train {}/run.toml --resume", program, run));
  } else if (!config.tokenizer.empty()) {
    print_row("try it", fmt::format("{} generate {} --prompt \"...\"", program, run));
    print_row("", fmt::format("{} chat {}", program, run));
  }
}

Status run(const TrainOptions& options, const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) names.push_back(option->get_name());
  CACHALOT_ASSIGN_OR_RETURN(std::vector<std::string> assignments,
                            assignments_of(command.remaining(), names));
  if (options.files.empty() && options.texts.empty()) {
    return invalid_argument(
        "train: expected a configuration file, or --data with texts (as in --preset nano --data "
        "DIR), found neither");
  }
  if (!options.preset.empty())
    assignments.insert(assignments.begin(), "model.preset=\"" + options.preset + "\"");
  CACHALOT_ASSIGN_OR_RETURN(train::ConfigTree tree,
                            train::read_config_tree(options.files, assignments));
  CACHALOT_ASSIGN_OR_RETURN(const device::Isa isa, device::chosen_isa());
  ThreadPool pool(options.threads);
  if (!options.texts.empty())
    CACHALOT_RETURN_IF_ERROR(add_texts(tree, options.texts, options.request.resume, pool));
  CACHALOT_ASSIGN_OR_RETURN(const train::TrainConfig config, train::train_config_from(tree));
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, isa};
  if (options.dry_run) {
    CACHALOT_ASSIGN_OR_RETURN(const train::MemoryPlan plan, train::memory_plan(config));
    fmt::print("{}\n# {}\n", train::resolved_toml(config), "what this run is");
    fmt::print("{}", plan.to_text(train::machine_peak_gflops(ctx, config)));
    for (const std::string& note : train::budget_notes(config)) fmt::print("# note: {}\n", note);
    return {};
  }
  if (!options.texts.empty())
    CACHALOT_RETURN_IF_ERROR(write_text_defaults(config, options.request.resume));
  TrainProgress progress(config.schedule.batch.total_tokens, config.log.every_steps);
  watch_interrupts(2);
  CACHALOT_ASSIGN_OR_RETURN(const train::RunSummary summary,
                            train::run_training(ctx, config, options.request, progress));
  progress.clear();
  // The run is whole without its page.
  if (const Status status = write_report({config.run_dir}, ""); !status.ok())
    log_warning(fmt::format("report: {}", status.message()));
  print_summary(command.get_parent()->get_name(), config, summary);
  return {};
}

}  // namespace

void add_train_verb(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand(
      "train",
      "train a model: from texts alone, or from TOML files laid over each other; --key=value sets "
      "single values (docs/training-keys.md lists the keys)");
  set_example(command, "train --preset nano --data my-texts --run_dir=runs/mine");
  command->add_option("files", options->files, "configuration files, later over earlier ones");
  command->add_option("--preset", options->preset,
                      "shape and schedule: nano or mini (model.preset)");
  command->add_option("--data", options->texts,
                      "texts to learn from: files, folders, patterns; tokenizer and corpora are "
                      "made from them, and what else the configuration leaves open");
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
  command->callback(
      [command, options, exit_code] { *exit_code = exit_code_of(run(*options, *command)); });
}

}  // namespace cachalot::apps
