// A continuation by the model in training, to look at: tokens drawn one after the other from the
// forward pass over all before them. It takes num_tokens passes, so it is for short ones.
//           A model whose logits are not numbers ends it.
// Numerics  a pure function of parameters, prompt and options.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "train/training_model.h"

namespace cachalot::train {

struct SampleOptions {
  int64_t num_tokens = 0;
  double temperature = 0.7;
  int32_t end_token = -1;  // ends it; not part of it
  bool dense_attention = false;
  uint64_t seed = 0;
  int64_t index = 0;  // of the sample: the same seed and index draw the same numbers
};

// The tokens after the prompt, which is not empty (CHECK).
std::vector<int32_t> sample_continuation(device::ExecContext& ctx, TrainingModel& model,
                                         std::span<const int32_t> prompt,
                                         const SampleOptions& options);

}  // namespace cachalot::train
