#include "ops/compressor/entry_rows.h"

#include "ops/compressor/compressor.h"
#include "ops/quant/act_quant.h"
#include "ops/quant/encode_rows.h"

namespace cachalot::ops {

void complete_entries(device::ExecContext& ctx, const EntryRowsParams& p) {
  add_positional_bias(ctx, {p.rows, p.sequences, p.ratio, p.columns(), p.ape});
  const int64_t count = p.has_entries ? 0 : p.sequences.num_entries(p.ratio);
  if (count == 0) return;
  const device::ArenaScope scope(*ctx.arena);
  auto* const x = ctx.arena->allocate<float>(count * p.width);
  compress(ctx, {p.sequences, p.layer_rows, p.tail, p.step_rows, p.ratio, p.overlap, p.width, x});
  if (p.round) round_bf16(ctx, {x, count, p.width, p.width});
  auto* const positions = ctx.arena->allocate<int64_t>(count);
  entry_positions(ctx, p.sequences, p.ratio, positions);
  HeadRowsParams heads{};
  heads.x = x;
  heads.rows = count;
  heads.row_stride = p.width;
  heads.heads = 1;
  heads.head_dim = p.width;
  heads.norm = HeadNorm::weighted;
  heads.g = p.g;
  heads.eps = p.eps;
  heads.rope_dim = p.rope_dim;
  heads.table = rope_table(ctx, *p.frequencies, positions, count);
  heads.hadamard = p.hadamard;
  heads.snap = p.snap;
  heads.round = p.round;
  head_rows(ctx, heads);
  const EncodeEntriesParams entries{x,           p.width,      p.width, p.rope_dim,
                                    p.sequences, p.layer_rows, p.ratio};
  if (p.tail == tensor::Recent::tail) {
    encode_kv_entries(ctx, entries, p.kv);
  } else {
    encode_index_entries(ctx, entries, p.index);
  }
}

void store_compressor_rows(device::ExecContext& ctx, const EntryRowsParams& p) {
  store_recent_rows(ctx, {p.sequences, p.layer_rows, p.tail, p.step_rows});
}

}  // namespace cachalot::ops
