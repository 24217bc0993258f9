// What adaptive drafts of the MTP block gain, and that they never cost much.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace cachalot::bench {

struct DraftsBenchOptions {
  std::string model;  // a checkpoint directory with its tokenizer.json
  std::string precision = "official";
  int threads = 0;
  int64_t max_drafts = 4;
  int64_t new_tokens = 256;  // of each answer
  int64_t rounds = 5;        // of each workload, without drafts and with them in turn
  bool cpu_clock = false;    // as ArrivalsBenchOptions'
};
// JSON: for three workloads (greedy text, text at temperature 1, eight greedy texts at once) tokens
// a second without drafts and with them, and the median over the rounds of their ratio.
Result<std::string> run_drafts_bench(const DraftsBenchOptions& options);

}  // namespace cachalot::bench
