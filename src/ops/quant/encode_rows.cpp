#include "ops/quant/encode_rows.h"

#include "base/check.h"
#include "ops/elementwise/entry_places.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/on_gpu.h"
#include "ops/quant/row_codec.h"

namespace cachalot::ops {
namespace {

// encode(values, sequence, entry) for every entry that the step completes.
template <typename Encode>
void encode_entries(device::ExecContext& ctx, const EncodeEntriesParams& p, const Encode& encode) {
  CACHALOT_CHECK(p.ratio > 0 && p.dim > 0);
  const device::ArenaScope scope(*ctx.arena);
  const EntryPlace* places = entry_places(*ctx.arena, p.sequences, p.ratio);
  for_row_blocks(ctx, p.sequences.num_entries(p.ratio), p.dim, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      encode(p.x + i * p.stride, places[i].sequence, places[i].entry);
  });
}

void count(const EncodeEntriesParams& p, const tensor::RowLayout& row, device::Work* work) {
  if (work != nullptr) work->cache_bytes += p.sequences.num_entries(p.ratio) * row.row_bytes();
}

}  // namespace

void encode_kv_rows(device::ExecContext& ctx, const EncodeRowsParams& p, tensor::KvFormat format,
                    const tensor::RowBlocks& to) {
  if (ctx.gpu != nullptr) return encode_kv_rows_cuda(ctx, p, format, to);
  for_row_blocks(ctx, p.rows, p.dim, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      encode_kv_row(format, p.x + i * p.stride, p.dim, p.rope_dim, to.row(i));
  });
}

void encode_kv_entries(device::ExecContext& ctx, const EncodeEntriesParams& p,
                       tensor::KvFormat format) {
  count(p, tensor::kv_row_layout(format, p.dim, p.rope_dim), ctx.work);
  if (ctx.gpu != nullptr) return encode_kv_entries_cuda(ctx, p, format);
  encode_entries(ctx, p, [&](const float* x, int64_t s, int64_t entry) {
    encode_kv_row(format, x, p.dim, p.rope_dim, p.layer_rows[s].entries.row(entry));
  });
}

void encode_index_entries(device::ExecContext& ctx, const EncodeEntriesParams& p,
                          tensor::IndexFormat format) {
  count(p, tensor::index_row_layout(format, p.dim), ctx.work);
  if (ctx.gpu != nullptr) return encode_index_entries_cuda(ctx, p, format);
  encode_entries(ctx, p, [&](const float* x, int64_t s, int64_t entry) {
    encode_index_row(format, x, p.dim, p.layer_rows[s].index_keys.row(entry));
  });
}

}  // namespace cachalot::ops
