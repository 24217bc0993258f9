// Weighted negative log-probabilities of target tokens: the loss of supervised fine-tuning.
// Source  reference/post-training 2.1; ops/loss/label_logprob.h. loss = sum over targets of weight
//         * -log pi(target).
#pragma once

#include <span>
#include <vector>

#include "train/logits_loss.h"

namespace cachalot::post {

enum class SftMean {
  tokens,         // over all targets of the batch
  conversations,  // over conversations, of the mean over each one's targets
};

// Weights of the targets of a batch, conversation after conversation. One without targets has no
// weight and is not counted.
std::vector<double> target_weights(std::span<const int64_t> targets_per_conversation, SftMean mean);

// Borrows the weights: of the rows with a label of a call's samples, in their order. For one call
// of add_gradients() or forward_loss().
class TokenLoss : public train::LogitsLoss {
 public:
  explicit TokenLoss(std::span<const double> weights)
      : weights_(weights), logprobs_(weights.size()) {}

  void add(autograd::Context ctx, const Lot& lot) override;

  double loss() const { return loss_; }
  const std::vector<double>& logprobs() const { return logprobs_; }

 private:
  std::span<const double> weights_;
  std::vector<double> logprobs_;
  double loss_ = 0;
};

}  // namespace cachalot::post
