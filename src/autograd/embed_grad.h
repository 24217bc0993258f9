// Embedding rows, recorded. Source: ops/embed/embed.h. The table is a parameter of the tape, F32,
// or has no gradient.
#pragma once

#include <span>

#include "autograd/tape.h"
#include "ops/embed/embed.h"

namespace cachalot::autograd {

// tokens stay in place until backward.
void embed(Context ctx, const tensor::TensorView& table, std::span<const int32_t> tokens,
           float* out);

}  // namespace cachalot::autograd
