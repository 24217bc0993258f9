// What benchmarks of whole models share: a clock, medians, made-up prompts, and what a step needs.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "engine/engine.h"

namespace cachalot::bench {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start);
double median(std::vector<double> values);
std::vector<int32_t> random_prompt(int64_t count, int64_t vocab_size);

// What an op needs, in plain FLOPs (2 a multiply-add, whatever the format) and bytes read.
struct OpCost {
  double flops, bytes;
  bool in_f32 = false;  // its math at every precision
};

// What one decode step of some sequences at a context needs.
struct StepCost {
  std::vector<OpCost> products;  // with the layers' matrices and the head's, one of each; of the
                                 // experts, those that are expected to be chosen
  OpCost attention;              // scanned and selected cache rows
};
StepCost step_cost(const engine::Engine& engine, double context, int64_t sequences = 1);
double flops_of(const StepCost& cost);
double bytes_of(const StepCost& cost);

Status check_share(const char* name, double share);

}  // namespace cachalot::bench
