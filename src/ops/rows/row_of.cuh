// Which sequence a row of a step belongs to, on the GPU.
#pragma once

#include "tensor/rows.h"

namespace cachalot::ops {

struct RowOf {
  int sequence;
  int first_row;       // of the sequence
  int first_position;  // of that row
  int position;

  // By a warp, all of whose lanes ask for one row. The tables are of device memory.
  __device__ RowOf(const tensor::Sequences& all, int row) {
    int before = 0;
    for (int64_t s = 1 + static_cast<int>(threadIdx.x) % 32; s < all.count; s += 32)
      before += all.first_row[s] <= row ? 1 : 0;
    sequence = __reduce_add_sync(0xFFFFFFFFu, before);
    first_row = static_cast<int>(all.first_row[sequence]);
    first_position = static_cast<int>(all.first_position[sequence]);
    position = first_position + row - first_row;
  }
};

}  // namespace cachalot::ops
