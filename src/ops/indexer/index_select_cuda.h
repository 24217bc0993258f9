// The lightning indexer for a few tokens on the GPU's tensor cores: scores over fp4 keys and the
// exact choice of the best, in one kernel, without a score matrix in memory.
// Source  ops/indexer/index_select.h; reference/forward 3.6, 3.10.
// Shapes  index_select's, all pointers of device memory, for the step's rows from first_row on: 64
//         heads of 128, q with values of simulate_fp4, weight with values of bf16. Blocks of index
//         keys (IndexFormat::fp4) hold a multiple of 16 rows and lie at multiples of 16 bytes.
// Numerics  as index_select with bf16_math and round_scores, but for the fp32 sums, which the
//         tensor cores take: 16 dimensions (four of each scale) and 16 heads at a time, the heads
//         ascending. A scale above 2^33 counts as 2^33. Ties go to the lowest entry; NaN is lowest.
//         Bits do not depend on the other rows.
// Errors  make_index_plan: invalid_argument.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "device/cuda/device.h"
#include "device/cuda/handles.h"
#include "ops/indexer/index_select.h"

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
  int64_t first_row;
  int64_t rows;
  const float* q;
  const float* weight;
  tensor::Sequences sequences;
  const tensor::LayerRows* layer_rows;
  int64_t ratio;
  int32_t* selected;
  int32_t* num_selected;
  std::byte* scratch;
};
void launch_index_select(const IndexPlan& plan, const device::cuda::Stream& stream,
                         const IndexParams& params);

// index_select where `tensor_cores` asks for it and shapes fit, which the number of rows does not
// change. False: nothing was launched.
bool index_select_on_tensor_cores(device::ExecContext& ctx, const IndexSelectParams& p);

}  // namespace cachalot::ops
