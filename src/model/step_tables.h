// The tables of a step where its kernels find them. Internal to model/.
#pragma once

#include <span>

#include "device/exec_context.h"
#include "formats/config.h"
#include "model/forward_batch.h"

namespace cachalot::model {

// The batch with its tokens, sequences and layer rows copied into tables of ctx's GPU (device/
// gpu.h), those of the step before forgotten; on the CPU the batch itself. Blocks of rows are
// listed as far as the batch's positions reach.
ForwardBatch place_tables(device::ExecContext& ctx, const ForwardBatch& batch,
                          std::span<const formats::LayerConfig> layers);

// A list of the host among the step's tables; on the CPU the list itself.
std::span<const int64_t> place_list(device::ExecContext& ctx, std::span<const int64_t> values);

}  // namespace cachalot::model
