// The tables of a ragged op as kernels read them: the same structs over the twins (device/gpu.h).
#pragma once

#include "device/exec_context.h"
#include "tensor/rows.h"

namespace cachalot::tensor {

inline Sequences on_device(const device::ExecContext& ctx, const Sequences& sequences) {
  return {sequences.count, ctx.gpu->on_device(sequences.first_row),
          ctx.gpu->on_device(sequences.first_position)};
}

// Of a step's rows: the table of blocks lies on the host. Those in LayerRows lie on the device.
inline RowBlocks on_device(const device::ExecContext& ctx, const RowBlocks& rows) {
  return {ctx.gpu->on_device(rows.blocks), rows.rows_per_block, rows.layout};
}

}  // namespace cachalot::tensor
