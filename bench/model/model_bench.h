// Whole models with made-up weights: decode and prefill beside the machine's limits, and contexts
// up to a million tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "formats/config.h"

namespace cachalot::bench {

struct ModelBenchOptions {
  // empty: Flash's shapes with fewer layers, experts and words (about 2.3 GB)
  std::string config_path;
  std::string precision = "official";
  int threads = 0;
  int64_t prompt_tokens = 512;
  int64_t decode_tokens = 24;
};
// JSON: weights, medians of prefill and decode, bytes and FLOPs they need, shares of the limits
// measured in the same run.
Result<std::string> run_model_bench(const ModelBenchOptions& options);

struct ContextBenchOptions {
  std::string config_path;  // empty: a small model with every layer kind
  std::string precision = "official";
  int threads = 0;
  int64_t context_tokens = 1048576;
  int64_t short_tokens = 4096;
  int64_t decode_tokens = 256;
  int64_t chunk_tokens = 1024;
  bool cpu_clock = false;  // of decoding, as in BatchBenchOptions
};
// JSON: prefill and decode times at both lengths, cache bytes per token measured and by formula,
// peak memory, and the ratio of decode times that bytes and FLOPs predict.
Result<std::string> run_context_bench(const ContextBenchOptions& options);

struct BatchBenchOptions {
  std::string model;  // a checkpoint directory; empty: as ModelBenchOptions' config
  std::string precision = "official";
  int threads = 0;
  int64_t prompt_tokens = 64;
  int64_t decode_tokens = 48;
  std::vector<int64_t> sequences = {1, 4, 16, 64};  // that decode at once; one number or more
  int64_t rounds = 3;                               // of each of them, in turn
  bool cpu_clock = false;  // the process's time over its threads: for a machine that others use too
};
// JSON: for each number of sequences that decode at once, the median step, tokens a second, and the
// step beside the limits measured in the same run.
Result<std::string> run_batch_bench(const BatchBenchOptions& options);

}  // namespace cachalot::bench
