// Log-probabilities of the labels, and no gradient.
#pragma once

#include <vector>

#include "train/logits_loss.h"

namespace cachalot::post {

class LabelLogprobs : public train::LogitsLoss {
 public:
  void add(autograd::Context ctx, const Lot& lot) override;

  // Of all rows so far, in their order.
  const std::vector<double>& values() const { return values_; }

 private:
  std::vector<double> values_;
};

}  // namespace cachalot::post
