// cachalot rollout: a worker that samples for `cachalot rl --listen`.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <memory>

#include "apps/command_line.h"
#include "apps/interrupts.h"
#include "apps/task_run_command.h"
#include "apps/training_command.h"
#include "apps/verbs.h"
#include "base/file.h"
#include "rollout/worker.h"

namespace cachalot::apps {
namespace {

struct RolloutVerbOptions {
  std::string trainer;
  std::string key_file;
  rollout::WorkerOptions worker;
};

Result<int> run(RolloutVerbOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(const Address address, parse_address(options.trainer));
  rollout::WorkerOptions& worker = options.worker;
  worker.host = address.host;
  worker.port = address.port;
  if (!options.key_file.empty()) {
    CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(options.key_file, 1 << 16));
    worker.key = text.substr(0, text.find_first_of(" \t\r\n"));
  }
  if (worker.name.empty()) {
    std::array<char, 256> host{};
    ::gethostname(host.data(), host.size() - 1);
    worker.name = fmt::format("{}-{}", host.data(), ::getpid());
  }
  watch_interrupts(1);
  CACHALOT_ASSIGN_OR_RETURN(const rollout::WorkerSummary summary,
                            rollout::run_worker(worker, [] { return interrupts() > 0; }));
  fmt::print(
      "{} groups, {} tokens sampled, weights fetched {} times, dropped what was at hand {} "
      "times\n",
      summary.groups, summary.sampled_tokens, summary.weights_fetched, summary.lost);
  return interrupts() > 0 ? kInterrupted : 0;
}

}  // namespace

void add_rollout_verb(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<RolloutVerbOptions>();
  CLI::App* command = app.add_subcommand(
      "rollout", "sample answers for a training run elsewhere, which listens (docs/rl.md)");
  set_example(command, "rollout 10.0.0.7:8090 --work worker-1");
  rollout::WorkerOptions& worker = options->worker;
  command->add_option("trainer", options->trainer, "its host:port")->required();
  command->add_option("--work", worker.directory, "directory of this worker alone, for weights")
      ->required();
  command->add_option("--name", worker.name, "in the trainer's log (default: host and process)");
  command->add_option("--api-key-file", options->key_file,
                      "file that begins with a key of the trainer's --api-keys");
  command->add_option("--sequences", worker.max_sequences, "sampled at once, prompts with them")
      ->check(CLI::Range(2, 65536));
  command->add_option("--threads", worker.threads, "0: one per usable core")
      ->check(CLI::Range(0, 1024));
  command
      ->add_option("--patience", worker.patience_seconds,
                   "seconds to wait for a trainer that does not answer")
      ->check(CLI::Range(0.0, 1e9));
  command->callback([options, exit_code] {
    const Result<int> code = run(*options);
    *exit_code = code ? *code : report_error(code.error());
  });
}

}  // namespace cachalot::apps
