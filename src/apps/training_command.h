// What the verbs that train have in common: assignments of their command line, and a run that a
// person watches.
#pragma once

#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "device/isa.h"
#include "train/run.h"

namespace CLI {
class App;
}

namespace cachalot::apps {

// What CLI11 has left of the command line, which must be "--key=value", as "key=value".
Result<std::vector<std::string>> assignments_of(const CLI::App& command);

// Prints what the run would be. Returns the exit code.
Result<int> show_training(const train::TrainConfig& config, ThreadPool& pool, device::Isa isa);

// The run with its progress, its report and what can be done with it. Returns the exit code.
Result<int> shown_training(const std::string& program, const train::TrainConfig& config,
                           const train::RunRequest& request, ThreadPool& pool, device::Isa isa);

}  // namespace cachalot::apps
