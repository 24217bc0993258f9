// Floating-point operations of a training step, per token: 6 for each active parameter of a matrix
// (the MTP block's too), and three times the forward pass's attention at half the sequence length.
// The indexer's and the optimizer's are not counted.
#pragma once

#include <cstdint>

#include "formats/config.h"

namespace cachalot::train {

double training_flops_per_token(const formats::ModelConfig& config, int64_t sequence_length);

}  // namespace cachalot::train
