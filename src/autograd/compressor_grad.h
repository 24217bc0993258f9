// Token-level compression, recorded. Source: ops/compressor/compressor.h. The chunk's rows are
// storage of the tape themselves.
#pragma once

#include "autograd/tape.h"
#include "ops/compressor/compressor.h"

namespace cachalot::autograd {

void compress(Context ctx, const ops::CompressParams& p);

// S += the positional bias of each row's position. rows [num_rows, 2 * columns] are K, S as
// compress reads them.
struct PositionalBias {
  float* rows;
  int64_t num_rows;
  int64_t first_position;
  int64_t ratio;
  int64_t columns;
  const float* ape;  // [ratio, columns]
};
void add_positional_bias(Context ctx, const PositionalBias& p);

}  // namespace cachalot::autograd
