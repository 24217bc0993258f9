#include "post/label_logprobs.h"

#include "base/check.h"
#include "ops/loss/label_logprob.h"

namespace cachalot::post {

void LabelLogprobs::add(autograd::Context ctx, const Lot& lot) {
  CACHALOT_CHECK(ctx.tape == nullptr);
  const size_t first = values_.size();
  values_.resize(first + lot.labels.size());
  ops::label_logprob(ctx.exec, {.logits = lot.logits,
                                .logits_stride = lot.vocab_size,
                                .labels = lot.labels.data(),
                                .rows = std::ssize(lot.labels),
                                .vocab_size = lot.vocab_size,
                                .logprobs = values_.data() + first});
}

}  // namespace cachalot::post
