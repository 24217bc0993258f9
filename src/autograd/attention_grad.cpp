#include "autograd/attention_grad.h"

#include "ops/attention/sparse_attention_backward.h"

namespace cachalot::autograd {
namespace {
// What a block's first row was encoded from; null where there are no rows.
const float* rows_values(const Tape& tape, const tensor::RowBlocks& rows) {
  return rows.blocks == nullptr ? nullptr : tape.values_of(rows.row(0).data);
}
}  // namespace

void sparse_attention(Context ctx, const ops::SparseAttentionParams& p) {
  ops::sparse_attention(ctx.exec, p);
  if (ctx.tape == nullptr) return;
  const float* recent = p.window > 0 ? rows_values(*ctx.tape, p.recent.chunk) : nullptr;
  const float* entries = p.ratio > 0 ? rows_values(*ctx.tape, p.entries) : nullptr;
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
    const float* keys = rows_values(*ctx.tape, p.keys);
    p.d_keys = keys == nullptr ? nullptr : ctx.tape->grad(keys);
  }
  ops::index_loss(ctx.exec, p);
}

}  // namespace cachalot::autograd
