// `cachalot evaluate`: a model against verifiable tasks (data/tasks/task.h), its answers judged by
// their checkers.
#pragma once

#include <string>
#include <vector>

#include "apps/run_options.h"
#include "base/status.h"

namespace cachalot::apps {

struct EvaluateOptions {
  RunOptions run;
  std::vector<std::string> families;  // empty: all
  int64_t count = 100;                // tasks of each family and difficulty
  int64_t min_difficulty = 0;
  int64_t max_difficulty = 0;
  uint64_t task_seed = 1;
  int64_t max_tokens = 256;  // of a turn
  int64_t max_turns = 8;     // of an episode with tools
  std::string family;        // prompt format
  std::string effort = "none";
  bool json = false;
};

// A table of families by difficulty (or a JSON object) to standard output.
Status evaluate(const EvaluateOptions& options);

}  // namespace cachalot::apps
