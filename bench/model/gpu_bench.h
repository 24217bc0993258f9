// Whole steps of Flash's layers on a GPU beside the machine's limits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace cachalot::bench {

struct GpuBenchOptions {
  int64_t layers = 40;  // Flash's first ones, at full width, with all experts and words
  std::string device = "cuda";
  std::string precision = "official-fp8";
  int threads = 0;
  std::vector<int64_t> prompts = {4096};        // one or more
  std::vector<int64_t> contexts = {4096};       // of decode, the first prompt's length or longer
  std::vector<int64_t> sequences = {1, 8, 64};  // that decode at once
  int64_t decode_tokens = 24;
  int64_t chunk_tokens = 2048;  // of a prompt that run at once
  std::string commit;           // that the program was built from
};

struct GpuBenchReport {
  std::string json;
  std::string table;  // rows of docs/benchmarks.md
};
// Weights are made up, in the official layout, on the GPU. Sequences that decode hold the rows of
// the first prompt, over and over where the context is longer: those past the first copy in memory
// of their own. Shares are of the limits measured in the same run: bytes that a step must read over
// the reading rate; a prompt's products over the rates of the tensor cores.
Result<GpuBenchReport> run_gpu_bench(const GpuBenchOptions& options);

}  // namespace cachalot::bench
