// cachalot sft: a model learns to answer as conversations show it.
#include <CLI/CLI.hpp>
#include <map>
#include <memory>

#include "apps/command_line.h"
#include "apps/sft_conversations.h"
#include "apps/training_command.h"
#include "apps/verbs.h"
#include "device/isa.h"

namespace cachalot::apps {
namespace {

struct SftOptions {
  SftRequest request;
  train::RunRequest run;
  int threads = 0;
};

// Returns the exit code.
Result<int> run(SftOptions options, const CLI::App& command) {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> assignments, assignments_of(command));
  CACHALOT_ASSIGN_OR_RETURN(train::ConfigTree tree, train::read_config_tree({}, assignments));
  CACHALOT_ASSIGN_OR_RETURN(const device::Isa isa, device::chosen_isa());
  ThreadPool pool(options.threads);
  CACHALOT_RETURN_IF_ERROR(add_conversations(tree, options.request, pool));
  CACHALOT_ASSIGN_OR_RETURN(const train::TrainConfig config, train::train_config_from(tree));
  if (options.request.dry_run) return show_training(config, pool, isa);
  return shown_training(command.get_parent()->get_name(), config, options.run, pool, isa);
}

}  // namespace

void add_sft_verb(CLI::App& app, int* exit_code) {
  using data::TargetMean;
  static const std::map<std::string, TargetMean> kMeans = {{"tokens", TargetMean::tokens},
                                                           {"samples", TargetMean::samples}};
  auto options = std::make_shared<SftOptions>();
  SftRequest& request = options->request;
  request.corpus.hold_out = 0.05;
  CLI::App* command = app.add_subcommand(
      "sft",
      "teach a model to answer as conversations show (docs/own-conversations.md); --key=value sets "
      "single values of the run (docs/training-keys.md)");
  set_example(command, "sft models/nano --data conversations.jsonl --run_dir=runs/mine");
  command->add_option("model", request.model, "a model's directory, or a run's")->required();
  command
      ->add_option("--data", request.files,
                   "conversations, a JSON object a line (OpenAI's messages with tools), gzip and "
                   "zstd too")
      ->required();
  command->add_option("--epochs", request.epochs, "how often the conversations are read")
      ->check(CLI::Range(0.01, 1000.0));
  command->add_option("--effort", request.corpus.conversations.effort,
                      "of rows that name none: none, low, high, max or auto (default: a "
                      "conversation thinks where it has reasoning)");
  command->add_option(
      "--family", request.family,
      "prompt format: v4, v4-0731 or v4.1 (default: v4.1 where the tokenizer says so, else v4)");
  command
      ->add_option("--mean", request.corpus.conversations.mean,
                   "of the loss: over tokens, or over samples (short answers weigh as long ones)")
      ->transform(choice(kMeans));
  command
      ->add_option("--hold-out", request.corpus.hold_out,
                   "share of the rows that is never learnt, whose loss is shown")
      ->check(CLI::Range(0.0, 0.5));
  command
      ->add_option("--bad-rows", request.corpus.most_bad_rows,
                   "largest share of rows that may be bad; 0: the first ends it")
      ->check(CLI::Range(0.0, 1.0));
  command
      ->add_option("--max-tokens", request.max_tokens,
                   "longer samples make their row a bad one (0: 4,096, or the model's context)")
      ->check(at_least(0));
  command->add_option("--stop-at-step", options->run.stop_at_step,
                      "end with a checkpoint after this step; train RUN/run.toml --resume goes on");
  command->add_flag("--dry-run", request.dry_run,
                    "print the rows' count, the resolved configuration, memory and time, and stop");
  finish_training_verb(command, options, run, exit_code);
}

}  // namespace cachalot::apps
