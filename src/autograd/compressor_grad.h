// Token-level compression, recorded. Source: ops/compressor/compressor.h. The step's rows are
// storage of the tape themselves.
#pragma once

#include "autograd/tape.h"
#include "ops/compressor/compressor.h"

namespace cachalot::autograd {

void compress(Context ctx, const ops::CompressParams& p);
void add_positional_bias(Context ctx, const ops::PositionalBiasParams& p);

}  // namespace cachalot::autograd
