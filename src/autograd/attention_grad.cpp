#include "autograd/attention_grad.h"

#include "ops/attention/sparse_attention_backward.h"

namespace cachalot::autograd {
namespace {

using EntryRows = tensor::RowBlocks tensor::LayerRows::*;

// The first entry that the step completes, in the sequences' order: what stands for all of them.
// Null where none is complete.
const std::byte* first_entry(const tensor::Sequences& sequences, const tensor::LayerRows* rows,
                             EntryRows kind, int64_t ratio) {
  for (int64_t s = 0; s < sequences.count; ++s) {
    if (sequences.num_entries(s, ratio) > 0)
      return (rows[s].*kind).row(sequences.first_entry(s, ratio)).data;
  }
  return nullptr;
}

void add_entries(Context ctx, const ops::EncodeEntriesParams& p, EntryRows kind) {
  if (ctx.tape == nullptr) return;
  const std::byte* first = first_entry(p.sequences, p.layer_rows, kind, p.ratio);
  if (first != nullptr) ctx.tape->add_encoded(first, p.x);
}

// What the entries of all sequences were encoded from, one array.
const float* entry_values(const Tape& tape, const tensor::Sequences& sequences,
                          const tensor::LayerRows* rows, EntryRows kind, int64_t ratio) {
  const std::byte* first = first_entry(sequences, rows, kind, ratio);
  return first == nullptr ? nullptr : tape.values_of(first);
}

}  // namespace

void encode_kv_rows(Context ctx, const ops::EncodeRowsParams& p, tensor::KvFormat format,
                    const tensor::RowBlocks& to) {
  if (ctx.tape != nullptr && p.rows > 0) ctx.tape->add_encoded(to.row(0).data, p.x);
  ops::encode_kv_rows(ctx.exec, p, format, to);
}

void encode_kv_entries(Context ctx, const ops::EncodeEntriesParams& p, tensor::KvFormat format) {
  add_entries(ctx, p, &tensor::LayerRows::entries);
  ops::encode_kv_entries(ctx.exec, p, format);
}

void encode_index_entries(Context ctx, const ops::EncodeEntriesParams& p,
                          tensor::IndexFormat format) {
  add_entries(ctx, p, &tensor::LayerRows::index_keys);
  ops::encode_index_entries(ctx.exec, p, format);
}

void sparse_attention(Context ctx, const ops::SparseAttentionParams& p) {
  ops::sparse_attention(ctx.exec, p);
  if (ctx.tape == nullptr) return;
  const float* recent = p.window > 0 ? ctx.tape->values_of(p.step_rows.row(0).data) : nullptr;
  const float* entries = p.ratio > 0 ? entry_values(*ctx.tape, p.sequences, p.layer_rows,
                                                    &tensor::LayerRows::entries, p.ratio)
                                     : nullptr;
  ctx.tape->record({.name = "sparse_attention",
                    .reads = {p.q, recent, entries},
                    .writes = {p.out},
                    .backward =
                        [=] {
                          Tape& tape = *ctx.tape;
                          const float* d_out = tape.existing_grad(p.out);
                          if (d_out == nullptr) return;
                          ops::sparse_attention_backward(
                              ctx.exec, {p, d_out, tape.grad(p.q),
                                         recent == nullptr ? nullptr : tape.grad(recent),
                                         entries == nullptr ? nullptr : tape.grad(entries),
                                         tape.grad(p.sink)});
                        },
                    .needs = {p.q}});
}

void index_loss(Context ctx, ops::IndexLossParams p) {
  if (ctx.tape != nullptr) {
    p.dq = ctx.tape->grad(p.q);
    p.d_weight = ctx.tape->grad(p.weight);
    const float* keys =
        entry_values(*ctx.tape, p.sequences, p.layer_rows, &tensor::LayerRows::index_keys, p.ratio);
    p.d_keys = keys == nullptr ? nullptr : ctx.tape->grad(keys);
  }
  ops::index_loss(ctx.exec, p);
}

}  // namespace cachalot::autograd
