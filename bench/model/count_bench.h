// FLOPs and cache bytes of one token at a long context, counted by the ops that run it, beside
// those of DeepSeek-V3.2.
// Source  reference/forward 8.1, 8.2.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace cachalot::bench {

struct CountBenchOptions {
  std::vector<std::string> presets = {"flash", "pro"};
  int64_t context = 1048576;  // a multiple of 256
  std::string device = "cuda";
  std::string precision = "official-fp8";
};
// JSON. A layer of each kind runs by itself, at full width with made-up weights; the model is as
// many of each as it has, and its head.
Result<std::string> run_count_bench(const CountBenchOptions& options);

}  // namespace cachalot::bench
