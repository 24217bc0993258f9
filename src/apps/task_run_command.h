// What the verbs of runs on tasks have in common (rl, distill): options, and a run that a person
// watches.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "post/task_run.h"

namespace cachalot::apps {

struct TaskRunOptions {
  std::vector<std::string> files;
  bool dry_run = false;
  int threads = 0;
  std::string listen;     // host:port for workers; empty: this process samples
  std::string keys_file;  // of workers
  double lease_seconds = 60;
  post::TaskRunRequest request;
};

// All but --threads (training_command.h).
void add_task_run_options(CLI::App* command, TaskRunOptions* options);

// A value of the log, as a step's line shows it.
struct ShownValue {
  const char* label;
  const char* metric;
  const char* format;  // of fmt: "{:.3f}"
};

// "host:port", ":port", "[::1]:port". invalid_argument for what is none.
struct Address {
  std::string host;
  uint16_t port = 0;
};
Result<Address> parse_address(const std::string& text);

// The configuration alone with --dry-run, else the run. Returns the exit code.
Result<int> shown_task_run(
    const CLI::App& command, const TaskRunOptions& options, const post::TaskRunConfig& config,
    std::span<const ShownValue> shown,
    const std::function<Result<post::TaskRunSummary>(
        device::ExecContext&, const post::TaskRunRequest&, post::TaskRunObserver&)>& run);

}  // namespace cachalot::apps
