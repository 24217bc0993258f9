// cachalot train: a run from TOML files, or what it would be.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>

#include "apps/command_line.h"
#include "apps/terminal.h"
#include "apps/train_texts.h"
#include "apps/training_command.h"
#include "apps/verbs.h"
#include "device/isa.h"
#include "formats/presets.h"
#include "train/run.h"

namespace cachalot::apps {
namespace {

constexpr double kMostTokens = 1e15;

struct TrainOptions {
  std::vector<std::string> files;
  std::string preset;
  std::optional<int64_t> tokens;
  std::vector<std::string> texts;
  bool dry_run = false;
  int threads = 0;
  train::RunRequest request;
};

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
  CACHALOT_ASSIGN_OR_RETURN(std::vector<std::string> assignments, assignments_of(command));
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
  if (options.dry_run) return show_training(config, pool, isa);
  if (!options.texts.empty())
    CACHALOT_RETURN_IF_ERROR(write_text_defaults(config, options.request.resume));
  return shown_training(command.get_parent()->get_name(), config, options.request, pool, isa);
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
  finish_training_verb(command, options, run, exit_code);
}

}  // namespace cachalot::apps
