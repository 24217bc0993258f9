#include "post/grpo_loss.h"

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "ops/loss/label_logprob.h"

namespace cachalot::post {
namespace {

ops::LabelLogprobParams row_params(const train::LogitsLoss::Lot& lot, const AllowedTokens& allowed,
                                   float temperature) {
  ops::LabelLogprobParams p{};
  p.logits = lot.logits;
  p.logits_stride = lot.vocab_size;
  p.labels = lot.labels.data();
  p.rows = static_cast<int64_t>(lot.labels.size());
  p.vocab_size = lot.vocab_size;
  if (allowed.bits != nullptr) {
    p.allowed = allowed.bits + lot.first * allowed.stride;
    p.allowed_stride = allowed.stride;
  }
  p.temperature = temperature;
  return p;
}

}  // namespace

int64_t GrpoLoss::span_end(int64_t first) const {
  return *std::ranges::upper_bound(rows_.offsets, first);
}

void GrpoLoss::look(device::ExecContext& ctx, const Lot& lot) {
  const auto end = static_cast<size_t>(lot.first) + lot.labels.size();
  CACHALOT_CHECK(end <= logprobs_.size());
  ops::LabelLogprobParams p = row_params(lot, allowed_, temperature_);
  p.logprobs = &logprobs_[lot.first];
  ops::label_logprob(ctx, p);
  for (int64_t i = std::ssize(values_.kept);
       i < rows_.num_sequences() && rows_.offsets[i + 1] <= static_cast<int64_t>(end); ++i) {
    add_grpo_sequence(rows_, i, logprobs_, batch_, options_, &values_);
  }
}

void GrpoLoss::add(autograd::Context ctx, const Lot& lot) {
  CACHALOT_CHECK(ctx.tape != nullptr);
  ops::LabelLogprobParams p = row_params(lot, allowed_, temperature_);
  p.coefficients = &values_.coefficient.at(lot.first);
  p.d_logits = ctx.tape->grad(lot.logits);
  p.d_logits_stride = lot.vocab_size;
  ops::label_logprob(ctx.exec, p);
}

}  // namespace cachalot::post
