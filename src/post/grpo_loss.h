// GRPO as a loss of the model's logits: log-probabilities of all response tokens of a sequence
// first, because its mask depends on all of them; then, token by token, the gradient of the logits.
// Source  reference/post-training 2.2 (Keep Sampling Mask), grpo.h, ops/loss/label_logprob.h.
// Labels  of a call's samples: the response tokens, in the order of the rows, and no others.
#pragma once

#include "post/grpo.h"
#include "train/logits_loss.h"

namespace cachalot::post {

// Which tokens a policy could sample where it was cut: bit v & 7 of byte v >> 3 of a row.
struct AllowedTokens {
  const uint8_t* bits = nullptr;  // [tokens, stride]; null: all
  int64_t stride = 0;
};

// Borrows rows and bits. For one call of add_gradients() or forward_loss().
class GrpoLoss : public train::LogitsLoss {
 public:
  GrpoLoss(const GrpoRows& rows, const MiniBatch& batch, const GrpoOptions& options,
           AllowedTokens allowed, float temperature = 1)
      : rows_(rows),
        batch_(batch),
        options_(options),
        allowed_(allowed),
        temperature_(temperature),
        logprobs_(rows.sampler.size()) {}

  bool looks_first() const override { return true; }
  int64_t span_end(int64_t first) const override;
  void look(device::ExecContext& ctx, const Lot& lot) override;
  void add(autograd::Context ctx, const Lot& lot) override;

  const std::vector<double>& logprobs() const { return logprobs_; }
  // Of all sequences; complete after the call.
  const GrpoValues& values() const { return values_; }

 private:
  const GrpoRows rows_;
  const MiniBatch batch_;
  const GrpoOptions options_;
  const AllowedTokens allowed_;
  const float temperature_;
  std::vector<double> logprobs_;
  GrpoValues values_;
};

}  // namespace cachalot::post
