#include "autograd/loss_grad.h"

#include "ops/loss/cross_entropy.h"

namespace cachalot::autograd {

double cross_entropy(Context ctx, const float* logits, std::span<const int32_t> labels,
                     std::span<const float> weights, int64_t vocab_size, float scale,
                     double loss_sum) {
  ops::CrossEntropyParams p{};
  p.logits = logits;
  p.logits_stride = vocab_size;
  p.labels = labels.data();
  p.rows = static_cast<int64_t>(labels.size());
  p.vocab_size = vocab_size;
  p.scale = scale;
  if (!weights.empty()) p.weights = weights.data();
  if (ctx.tape != nullptr) {
    p.d_logits = ctx.tape->grad(logits);
    p.d_logits_stride = vocab_size;
  }
  return ops::cross_entropy(ctx.exec, p, loss_sum);
}

}  // namespace cachalot::autograd
