#include "autograd/compressor_grad.h"

#include "ops/compressor/compressor_backward.h"

namespace cachalot::autograd {

void compress(Context ctx, const ops::CompressParams& p) {
  ops::compress(ctx.exec, p);
  if (ctx.tape == nullptr) return;
  const auto* rows = reinterpret_cast<const float*>(p.step_rows.row(0).data);
  ctx.tape->record({.name = "compress",
                    .reads = {rows},
                    .writes = {p.out},
                    .backward =
                        [=] {
                          const float* d_out = ctx.tape->existing_grad(p.out);
                          if (d_out == nullptr) return;
                          ops::compress_backward(ctx.exec, {p, d_out, ctx.tape->grad(rows)});
                        },
                    .needs = {rows}});
}

void add_positional_bias(Context ctx, const ops::PositionalBiasParams& p) {
  const auto run = [=] { ops::add_positional_bias(ctx.exec, p); };
  run();
  if (ctx.tape == nullptr) return;
  ctx.tape->record(
      {.name = "add_positional_bias",
       .reads = {p.rows, p.ape},
       .writes = {p.rows},
       .replay = run,
       .backward = [=] {
         const float* d_rows = ctx.tape->existing_grad(p.rows);
         float* d_ape = d_rows == nullptr ? nullptr : ctx.tape->grad(p.ape);
         if (d_ape == nullptr) return;
         ops::compress_bias_backward(ctx.exec, {d_rows, p.sequences, p.ratio, p.columns, d_ape});
       }});
}

}  // namespace cachalot::autograd
