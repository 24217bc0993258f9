// What the verbs that train have in common: assignments of their command line, and a run that a
// person watches.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "apps/verbs.h"
#include "base/thread_pool.h"
#include "device/isa.h"
#include "train/run.h"

namespace cachalot::apps {

// A shell's code for Ctrl-C: what follows "&&" does not run.
inline constexpr int kInterrupted = 130;

// What CLI11 has left of the command line, which must be "--key=value", as "key=value".
Result<std::vector<std::string>> assignments_of(const CLI::App& command);

// The last of a verb's options, --threads and assignments, and what it does: run(options, command)
// gives the exit code.
template <typename Options, typename Run>
void finish_training_verb(CLI::App* command, const std::shared_ptr<Options>& options, Run run,
                          int* exit_code) {
  command->add_option("--threads", options->threads, "0: one per usable core")
      ->check(CLI::Range(0, 1024));
  command->allow_extras();
  command->callback([command, options, run, exit_code] {
    const Result<int> code = run(*options, *command);
    *exit_code = code ? *code : report_error(code.error());
  });
}

// Prints what the run would be. Returns the exit code.
Result<int> show_training(const train::TrainConfig& config, ThreadPool& pool, device::Isa isa);

// The run with its progress, its report and what can be done with it. Returns the exit code.
Result<int> shown_training(const std::string& program, const train::TrainConfig& config,
                           const train::RunRequest& request, ThreadPool& pool, device::Isa isa);

}  // namespace cachalot::apps
