// Many rows into the cache's formats at once. Source, layout, numerics: ops/quant/row_codec.h.
#pragma once

#include <cstdint>

#include "device/exec_context.h"
#include "tensor/rows.h"

namespace cachalot::ops {

// x [rows, dim]; row i becomes row i of `to`. rope_dim is of KV rows.
struct EncodeRowsParams {
  const float* x;
  int64_t rows;
  int64_t dim;
  int64_t stride;
  int64_t rope_dim;
};
void encode_kv_rows(device::ExecContext& ctx, const EncodeRowsParams& p, tensor::KvFormat format,
                    const tensor::RowBlocks& to);

// x [Sequences::num_entries(ratio), dim]: the entries that the step completes, sequence after
// sequence; each becomes its place's row of its sequence's entries, or index_keys.
struct EncodeEntriesParams {
  const float* x;
  int64_t dim;
  int64_t stride;
  int64_t rope_dim;
  tensor::Sequences sequences;
  const tensor::LayerRows* layer_rows;
  int64_t ratio;
};
void encode_kv_entries(device::ExecContext& ctx, const EncodeEntriesParams& p,
                       tensor::KvFormat format);
void encode_index_entries(device::ExecContext& ctx, const EncodeEntriesParams& p,
                          tensor::IndexFormat format);

}  // namespace cachalot::ops
