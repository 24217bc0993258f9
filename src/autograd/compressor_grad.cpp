#include "autograd/compressor_grad.h"

#include "ops/compressor/compressor_backward.h"
#include "ops/elementwise/add.h"

namespace cachalot::autograd {

void compress(Context ctx, const ops::CompressParams& p) {
  ops::compress(ctx.exec, p);
  if (ctx.tape == nullptr) return;
  const auto* rows = reinterpret_cast<const float*>(p.rows.chunk.row(0).data);
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

void add_positional_bias(Context ctx, const PositionalBias& p) {
  const auto run = [=] {
    for (int64_t row = 0; row < p.num_rows; ++row) {
      ops::add(ctx.exec, p.rows + (2 * row + 1) * p.columns,
               p.ape + (p.first_position + row) % p.ratio * p.columns, p.columns, false);
    }
  };
  run();
  if (ctx.tape == nullptr) return;
  ctx.tape->record({.name = "add_positional_bias",
                    .reads = {p.rows, p.ape},
                    .writes = {p.rows},
                    .replay = run,
                    .backward = [=] {
                      const float* d_rows = ctx.tape->existing_grad(p.rows);
                      float* d_ape = d_rows == nullptr ? nullptr : ctx.tape->grad(p.ape);
                      if (d_ape == nullptr) return;
                      ops::compress_bias_backward(ctx.exec, {d_rows, p.num_rows, p.first_position,
                                                             p.ratio, p.columns, d_ape});
                    }});
}

}  // namespace cachalot::autograd
