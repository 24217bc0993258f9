// Packing a weight in the memory of the GPU whose products read it.
#pragma once

#include <cstddef>

#include "device/exec_context.h"
#include "ops/matmul/pack_panels.h"
#include "ops/matmul/packed_weight.h"

namespace cachalot::ops {

// What PackedWeight::pack_into() makes, made there: `memory` is of ctx's GPU, which reads the
// weight's bytes (of the host, or its own) and packs them. Scales are the host's. The arena is
// scratch.
Result<PackedWeight> pack_on_gpu(device::ExecContext& ctx, const tensor::QuantTensor& tensor,
                                 std::byte* memory);

void pack_panels_cuda(device::ExecContext& ctx, const PackPanels& p);

}  // namespace cachalot::ops
