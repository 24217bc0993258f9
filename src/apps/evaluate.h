// `cachalot evaluate`: a model against verifiable tasks (post/tasks.h), its answers judged by their
// checkers. Many are sampled at once; how many shows in no bit of them. An answer that reaches its
// window is wrong.
#pragma once

#include <string>
#include <vector>

#include "apps/run_options.h"
#include "base/status.h"

namespace cachalot::apps {

struct EvaluateOptions {
  RunOptions run;
  // NAME, NAME:DIFFICULTY, NAME:DIFFICULTY:EFFORT; empty: all, where there are no files.
  std::vector<std::string> families;
  std::vector<std::string> files;  // of jsonl
  int64_t count = 100;             // tasks of each family and difficulty, or of a file at most
  int64_t min_difficulty = 0;
  int64_t max_difficulty = 0;
  uint64_t task_seed = 1;
  int64_t max_tokens = 256;  // of an answer, what tools say with it
  int64_t max_turns = 8;     // of an episode with tools
  int64_t parallel = 16;     // answers sampled at once
  std::string family;        // prompt format
  std::string effort = "none";
  bool json = false;
};

// A table of families by difficulty (or a JSON object) to standard output.
Status evaluate(const EvaluateOptions& options);

}  // namespace cachalot::apps
