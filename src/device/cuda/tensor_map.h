// What the copy engine is told of a matrix of which it copies boxes (tile::Mbarrier::copy_box).
#pragma once

#include <cuda.h>

#include <cstdint>

namespace cachalot::device::cuda {

// Of rows of bf16: a box is 64 columns of box_rows rows and arrives as a tile::SwizzledTile; rows
// past the last are zeros. rows and row_stride (values): multiples of 16 bytes. box_rows: 256 at
// most.
CUtensorMap map_bf16_rows(const void* rows, int64_t num_rows, int64_t num_columns,
                          int64_t row_stride, int box_rows);

}  // namespace cachalot::device::cuda
