// The lightning indexer for a few tokens on the GPU's FP8 tensor cores: scores over fp4 keys and
// the exact choice of the best, in one kernel, without a score matrix in memory.
// Source  ops/indexer/index_select.h; reference/forward 3.6, 3.10.
// Shapes  index_select's, all pointers of device memory, for the step's rows from first_row on: 64
//         heads of 128, q with values of simulate_fp4, weight with values of bf16. Blocks of index
//         keys (IndexFormat::fp4) hold a multiple of 16 rows and lie at multiples of 16 bytes.
// Numerics  as index_select with bf16_math and round_scores, but for the sums, which the tensor
//         cores take. q . key: in e4m3, of whose codes the values of a head of q and of a key are
//         multiples by powers of two; exact but for q below 2^-17 of its head's largest, which is
//         rounded, and for a scale below 2^-11 of its key's largest, which counts as zero. 32
//         dimensions at a time (eight of each scale), their products and the sum before them cut 13
//         bits after the first of the largest. The heads: 16 at a time, ascending, in fp32. Ties go
//         to the lowest entry; NaN is lowest. Bits do not depend on the other rows.
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
  int cluster = 0;  // of a row's blocks; 0: they wait for each other in memory
  int64_t smem_bytes = 0;
  int64_t scratch_bytes = 0;
};

Result<IndexPlan> make_index_plan(const device::cuda::Device& device, const IndexShape& shape);

struct IndexParams {
  int64_t first_row;
  int64_t rows;
  const float* q;
  const uint16_t* q_bf16;  // q in bf16 instead, or null
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
