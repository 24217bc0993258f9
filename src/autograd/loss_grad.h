// Losses: where gradients begin. Source: ops/loss/cross_entropy.h; reference/training 6.
#pragma once

#include <span>

#include "autograd/tape.h"

namespace cachalot::autograd {

// loss_sum plus the sum over the rows with a label >= 0 of -log softmax(logits)[label], each times
// its weight (none given: 1). The gradient, written at once, is that of scale times the sum; the
// loss is the only reader of the logits [labels.size(), vocab_size].
double cross_entropy(Context ctx, const float* logits, std::span<const int32_t> labels,
                     std::span<const float> weights, int64_t vocab_size, float scale,
                     double loss_sum);

}  // namespace cachalot::autograd
