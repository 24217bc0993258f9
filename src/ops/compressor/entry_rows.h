// What a layer's compressor makes of a step's projections, in two ops: the entries that the step
// completes, as rows of the cache; then the rings' rows, from which later steps complete theirs.
// Source  reference/forward 3.3, 3.5, 3.6.
// Numerics  the bits of add_positional_bias, compress, the rounding, rms_norm, rope, hadamard, the
//         snap, the row's encoding, and store_recent_rows, one after another.
#pragma once

#include <cstdint>
#include <vector>

#include "device/exec_context.h"
#include "ops/rope/head_rows.h"
#include "tensor/rows.h"

namespace cachalot::ops {

struct EntryRowsParams {
  float* rows;  // [rows, 2, columns]: K, then S without ape, which complete_entries may add
  tensor::RowBlocks step_rows;  // the same as a block
  tensor::Sequences sequences;
  const tensor::LayerRows* layer_rows;
  tensor::Recent tail;  // tail: entries are KV rows; index_tail: indexer rows
  int64_t ratio;
  int64_t width;     // of an entry
  bool overlap;      // columns are 2 width, else width
  const float* ape;  // [ratio, columns]
  const float* g;    // [width]
  float eps;
  int64_t rope_dim;
  const std::vector<float>* frequencies;
  bool round;
  bool hadamard;
  HeadSnap snap;
  tensor::KvFormat kv;
  tensor::IndexFormat index;
  bool has_entries;  // they are in the cache already

  int64_t columns() const { return overlap ? 2 * width : width; }
};
// Both, in this order, whether or not there are entries; on a GPU by ops/rows/together.h, which may
// do without the sums in memory.
void complete_entries(device::ExecContext& ctx, const EntryRowsParams& p);
void store_compressor_rows(device::ExecContext& ctx, const EntryRowsParams& p);

}  // namespace cachalot::ops
