// What the attention benchmark runs: one operation at one shape over caches of random rows, with
// its arithmetic.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "device/exec_context.h"

namespace cachalot::bench {

struct AttentionCase {
  std::string name;
  int64_t context;
  int64_t rows;
  bool bf16_math;
  double flops;  // of the products
  double bytes;  // of cached rows, each read once a token
  std::function<void(device::ExecContext&)> run;
};

// V4-Flash shapes at these context lengths, and the indexer of a small model (4 heads of 32) at the
// longest.
std::vector<AttentionCase> make_attention_cases(const std::vector<int64_t>& contexts);

// Attention, its gradients and the indexer's loss over a whole segment, of a small model and of
// V4-Flash.
std::vector<AttentionCase> make_training_cases();

}  // namespace cachalot::bench
