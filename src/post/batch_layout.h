// How a step's answers are cut: into mini-batches, an optimizer step each, and those into calls of
// the trainer. Of light metadata alone: no set and no expert is read for it.
// Source  reference/post-training 9.4.
// Order   of the answers' numbers, or shuffled by the key alone, whatever the number of processes.
// Threads pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/rng.h"

namespace cachalot::post {

struct AnswerShape {
  int64_t num_rows = 0;
  bool is_flat = false;  // of advantage 0: a call holds such answers alone, or none
};

struct LayoutOptions {
  int64_t mini_batches = 1;
  int64_t micro_batch_tokens = 4096;  // of a call, unless one answer alone has more
  std::optional<RngStream> shuffle = {};
};

// Of each mini-batch its calls, of each call its answers. Mini-batches are as equal as can be.
using CallAnswers = std::vector<int64_t>;
std::vector<std::vector<CallAnswers>> batch_layout(std::span<const AnswerShape> answers,
                                                   const LayoutOptions& options);

}  // namespace cachalot::post
