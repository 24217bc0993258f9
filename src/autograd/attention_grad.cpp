#include "autograd/attention_grad.h"

#include "ops/attention/sparse_attention_backward.h"

namespace cachalot::autograd {
namespace {
// The gradient of a block's first row; null where there are no rows.
float* rows_grad(Tape& tape, const tensor::RowBlocks& rows) {
  const float* values = rows.blocks == nullptr ? nullptr : tape.values_of(rows.row(0).data);
  return values == nullptr ? nullptr : tape.grad(values);
}
}  // namespace

void sparse_attention(Context ctx, const ops::SparseAttentionParams& p) {
  ops::sparse_attention(ctx.exec, p);
  if (ctx.tape == nullptr) return;
  ctx.tape->record([=] {
    Tape& tape = *ctx.tape;
    const float* d_out = tape.existing_grad(p.out);
    if (d_out == nullptr) return;
    ops::sparse_attention_backward(
        ctx.exec,
        {p, d_out, tape.grad(p.q), p.window > 0 ? rows_grad(tape, p.recent.chunk) : nullptr,
         p.ratio > 0 ? rows_grad(tape, p.entries) : nullptr, tape.grad(p.sink)});
  });
}

void index_loss(Context ctx, ops::IndexLossParams p) {
  if (ctx.tape != nullptr) {
    p.dq = ctx.tape->grad(p.q);
    p.d_weight = ctx.tape->grad(p.weight);
    p.d_keys = rows_grad(*ctx.tape, p.keys);
  }
  ops::index_loss(ctx.exec, p);
}

}  // namespace cachalot::autograd
