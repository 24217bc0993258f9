// cachalot train: a run from TOML files, or what it would be.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>

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
#include "formats/presets.h"
#include "train/memory_plan.h"
#include "train/run.h"
#include "train/run_metrics.h"

namespace cachalot::apps {
namespace {

constexpr double kMostTokens = 1e15;
constexpr int kInterrupted = 130;  // a shell's code for Ctrl-C: what follows "&&" does not run

struct TrainOptions {
  std::vector<std::string> files;
  std::string preset;
  std::optional<int64_t> tokens;
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

// "2M" as "2000000".
CLI::Validator token_count() {
  return CLI::Validator(
      [](std::string& text) {
        static constexpr std::string_view kUnits = "kMB";
        double count = 0;
        const char* const end = text.data() + text.size();
        const auto [rest, error] = std::from_chars(text.data(), end, count);
        size_t unit = std::string_view::npos;
        if (rest != end) {
          unit = kUnits.find(*rest == 'K' ? 'k' : *rest == 'm' ? 'M' : *rest);
          for (size_t i = 0; unit != std::string_view::npos && i <= unit; ++i) count *= 1000;
        }
        const bool is_read = error == std::errc() &&
                             (rest == end || (unit != std::string_view::npos && rest + 1 == end));
        count = std::round(count);
        if (!is_read || !(count >= 1 && count <= kMostTokens)) {
          return fmt::format("expected tokens, as in 100k, 1.5M or 2000000, found \"{}\"", text);
        }
        text = std::to_string(static_cast<int64_t>(count));
        return std::string();
      },
      "TOKENS", "");
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

// A folder where a configuration file belongs.
Status check_files(const std::vector<std::string>& files) {
  for (const std::string& file : files) {
    std::error_code error;
    if (!std::filesystem::is_directory(file, error)) continue;
    const std::string word = shell_word(file);
    return invalid_argument(
        fmt::format("train: expected a configuration file, found the folder {}: {}", file,
                    std::filesystem::exists(file + "/run.toml", error)
                        ? fmt::format("a run? {}/run.toml --resume goes on with it", word)
                        : fmt::format("a folder of texts? use --data {}", word)));
  }
  return {};
}

// Returns the exit code.
Result<int> run(const TrainOptions& options, const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) names.push_back(option->get_name());
  CACHALOT_ASSIGN_OR_RETURN(std::vector<std::string> assignments,
                            assignments_of(command.remaining(), names));
  if (options.files.empty() && options.texts.empty()) {
    return invalid_argument(
        "train: expected a configuration file, or --data with texts (as in --preset nano --data "
        "DIR), found neither");
  }
  CACHALOT_RETURN_IF_ERROR(check_files(options.files));
  if (options.tokens) {
    assignments.insert(assignments.begin(),
                       fmt::format("schedule.batch.total_tokens={}", *options.tokens));
  }
  if (!options.preset.empty())
    assignments.insert(assignments.begin(), "model.preset=\"" + options.preset + "\"");
  CACHALOT_ASSIGN_OR_RETURN(train::ConfigTree tree,
                            train::read_config_tree(options.files, assignments));
  CACHALOT_ASSIGN_OR_RETURN(const device::Isa isa, device::chosen_isa());
  ThreadPool pool(options.threads);
  if (!options.texts.empty()) {
    CACHALOT_RETURN_IF_ERROR(
        add_texts(tree, {options.texts, options.request.resume, options.dry_run}, pool));
  }
  CACHALOT_ASSIGN_OR_RETURN(const train::TrainConfig config, train::train_config_from(tree));
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, isa};
  if (options.dry_run) {
    CACHALOT_ASSIGN_OR_RETURN(const train::MemoryPlan plan, train::memory_plan(config));
    fmt::print("{}\n# {}\n", train::resolved_toml(config), "what this run is");
    fmt::print("{}", plan.to_text(train::machine_peak_gflops(ctx, config)));
    for (const std::string& note : train::budget_notes(config)) fmt::print("# note: {}\n", note);
    return 0;
  }
  if (!options.texts.empty())
    CACHALOT_RETURN_IF_ERROR(write_text_defaults(config, options.request.resume));
  TrainProgress progress(config.schedule.batch.total_tokens, config.log.every_steps);
  progress.watch_stop();
  CACHALOT_ASSIGN_OR_RETURN(const train::RunSummary summary,
                            train::run_training(ctx, config, options.request, progress));
  progress.clear();
  // The run is whole without its page.
  if (const Status status = write_report({config.run_dir}, ""); !status.ok())
    log_warning(fmt::format("report: {}", status.message()));
  print_summary(command.get_parent()->get_name(), config, summary);
  return interrupts() > 0 && !summary.budget_spent ? kInterrupted : 0;
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
                      fmt::format("shape and schedule: {} (model.preset)", formats::kPresetNames));
  command
      ->add_option("--tokens", options->tokens,
                   "tokens to train on, as in 100k or 2M (schedule.batch.total_tokens)")
      ->transform(token_count());
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
  command->callback([command, options, exit_code] {
    const Result<int> code = run(*options, *command);
    *exit_code = code ? *code : report_error(code.error());
  });
}

}  // namespace cachalot::apps
