#include "autograd/embed_grad.h"

namespace cachalot::autograd {

void embed(Context ctx, const tensor::TensorView& table, std::span<const int32_t> tokens,
           float* out) {
  const auto rows = static_cast<int64_t>(tokens.size());
  ops::embed(ctx.exec, table, tokens.data(), rows, out);
  if (ctx.tape == nullptr) return;
  const float* values = table.dtype == tensor::DType::f32 ? table.as<float>() : nullptr;
  ctx.tape->record({.name = "embed",
                    .reads = {values},
                    .writes = {out},
                    .replay = [=] { ops::embed(ctx.exec, table, tokens.data(), rows, out); },
                    .backward =
                        [=, vocab_size = table.shape[0], d = table.shape[1]] {
                          const float* d_out = ctx.tape->existing_grad(out);
                          float* d_table = values == nullptr ? nullptr : ctx.tape->grad(values);
                          if (d_out == nullptr || d_table == nullptr) return;
                          ops::embed_backward(ctx.exec, tokens.data(), d_out, rows, vocab_size, d,
                                              d_table);
                        }});
}

}  // namespace cachalot::autograd
