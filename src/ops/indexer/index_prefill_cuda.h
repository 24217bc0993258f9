// The lightning indexer for many tokens of one sequence on the GPU's FP8 tensor cores: scores over
// fp4 keys and the exact choice of the best, in one kernel, without a score matrix in memory.
// Shapes  IndexParams, its rows those of one sequence; no scratch.
// Numerics  the picks are those of index_select_cuda.h.
// Errors  make_index_prefill_plan: invalid_argument.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "device/cuda/device.h"
#include "device/cuda/handles.h"
#include "ops/indexer/index_select_cuda.h"

namespace cachalot::ops {

struct IndexPrefillPlan {
  int64_t topk = 0;
  int64_t capacity = 0;  // candidates of a row
  int64_t smem_bytes = 0;
};

Result<IndexPrefillPlan> make_index_prefill_plan(const device::cuda::Device& device, int64_t topk);
void launch_index_prefill(const IndexPrefillPlan& plan, const device::cuda::Stream& stream,
                          const IndexParams& params);

}  // namespace cachalot::ops
