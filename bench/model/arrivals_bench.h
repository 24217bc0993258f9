// How even the time between tokens stays while prompts arrive.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace cachalot::bench {

struct ArrivalsBenchOptions {
  std::string model;  // a checkpoint directory
  std::string precision = "official";
  int threads = 0;
  int64_t sequences = 8;  // that decode all the time
  int64_t prompt_tokens = 8192;
  int64_t prompts = 5;               // that arrive, one after the other
  double max_token_gap_seconds = 0;  // 0: the engine's default
  // The process's time, of all its threads, in place of the clock's, for the engine too: for a
  // machine that others use.
  bool cpu_clock = false;
};
// JSON: the median and the 99th percentile of the steps of the sequences alone and of those while
// prompts run, beside each other; the prompts' tokens a second alone and beside the sequences, and
// the median over the prompts of their ratio.
Result<std::string> run_arrivals_bench(const ArrivalsBenchOptions& options);

}  // namespace cachalot::bench
