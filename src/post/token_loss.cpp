#include "post/token_loss.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "ops/loss/label_logprob.h"

namespace cachalot::post {

std::vector<double> target_weights(std::span<const int64_t> targets_per_conversation,
                                   SftMean mean) {
  const int64_t targets =
      std::accumulate(targets_per_conversation.begin(), targets_per_conversation.end(), int64_t{0});
  const int64_t conversations =
      std::count_if(targets_per_conversation.begin(), targets_per_conversation.end(),
                    [](int64_t n) { return n > 0; });
  std::vector<double> weights;
  for (const int64_t n : targets_per_conversation) {
    const int64_t shares = mean == SftMean::tokens ? targets : conversations * n;
    weights.insert(weights.end(), static_cast<size_t>(n), 1 / static_cast<double>(shares));
  }
  return weights;
}

void TokenLoss::add(autograd::Context ctx, const Lot& lot) {
  CACHALOT_CHECK(static_cast<size_t>(lot.first) + lot.labels.size() <= weights_.size());
  std::vector<double> coefficients;
  for (size_t i = 0; i < lot.labels.size(); ++i)
    coefficients.push_back(-weights_[static_cast<size_t>(lot.first) + i]);
  ops::LabelLogprobParams p{};
  p.logits = lot.logits;
  p.logits_stride = lot.vocab_size;
  p.labels = lot.labels.data();
  p.rows = static_cast<int64_t>(lot.labels.size());
  p.vocab_size = lot.vocab_size;
  p.logprobs = &logprobs_[lot.first];
  if (ctx.tape != nullptr) {
    p.coefficients = coefficients.data();
    p.d_logits = ctx.tape->grad(lot.logits);
    p.d_logits_stride = lot.vocab_size;
  }
  ops::label_logprob(ctx.exec, p);
  for (size_t i = 0; i < lot.labels.size(); ++i)
    loss_ += coefficients[i] * logprobs_[static_cast<size_t>(lot.first) + i];
}

}  // namespace cachalot::post
