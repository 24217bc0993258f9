#include "autograd/compressor_grad.h"

#include "ops/compressor/compressor_backward.h"

namespace cachalot::autograd {

void compress(Context ctx, const ops::CompressParams& p) {
  ops::compress(ctx.exec, p);
  if (ctx.tape == nullptr) return;
  ctx.tape->record([=] {
    const float* d_out = ctx.tape->existing_grad(p.out);
    if (d_out == nullptr) return;
    const auto* rows = reinterpret_cast<const float*>(p.rows.chunk.row(0).data);
    ops::compress_backward(ctx.exec, {p, d_out, ctx.tape->grad(rows)});
  });
}

}  // namespace cachalot::autograd
