// The lightning indexer for a few tokens on the GPU: scores over fp4 keys and the exact choice of
// the best, in one kernel, without a score matrix in memory.
// Source  ops/indexer/index_select.h; reference/forward 3.6, 3.10.
// Shapes  q [rows, 64, 128] bf16, its values those of simulate_fp4; weight [rows, 64] bf16; visible
//         [rows] int32; keys: block i of a row's table starts at base + blocks[row * table_stride +
//         i] * block_bytes + offset and holds rows_per_block (a multiple of 16) rows of 64 data
//         bytes, then their 4 scale bytes each (tensor::IndexFormat::fp4). selected [rows, topk]
//         int32 ascending, unused places -1; num_selected [rows].
// Numerics  as index_select with bf16_math and round_scores, but for the fp32 sums, which the
//         tensor cores take: 16 dimensions (four of each scale) and 16 heads at a time, the heads
//         ascending. A scale above 2^33 counts as 2^33. Ties go to the lowest entry; NaN is lowest.
//         Bits do not depend on the other rows.
// Errors  make_index_plan: invalid_argument.
// Threads scratch belongs to one stream and one plan; zero before the first call and after each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "device/cuda/device.h"
#include "device/cuda/handles.h"

namespace cachalot::ops {

struct IndexShape {
  int64_t rows;         // at most
  int64_t max_visible;  // of a row
  int64_t topk;
};

struct IndexPlan {
  IndexShape shape;
  int blocks_per_row = 0;
  int64_t smem_bytes = 0;
  int64_t scratch_bytes = 0;
};

Result<IndexPlan> make_index_plan(const device::cuda::Device& device, const IndexShape& shape);

struct IndexParams {
  int64_t rows;
  const uint16_t* q;
  const uint16_t* weight;
  const int32_t* visible;
  const std::byte* base;
  const int32_t* blocks;
  int64_t table_stride;
  int64_t block_bytes;
  int64_t offset;
  int64_t rows_per_block;
  int32_t* selected;
  int32_t* num_selected;
  std::byte* scratch;
};
void launch_index_select(const IndexPlan& plan, const device::cuda::Stream& stream,
                         const IndexParams& params);

}  // namespace cachalot::ops
