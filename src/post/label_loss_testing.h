// Supervised learning for tests of what comes after it: -log p of each label, over a given number
// of labels.
#pragma once

#include <cstdint>
#include <iterator>
#include <vector>

#include "ops/loss/label_logprob.h"
#include "train/logits_loss.h"

namespace cachalot::post::testing {

class LabelLoss : public train::LogitsLoss {
 public:
  explicit LabelLoss(int64_t num_labels) : num_labels_(num_labels) {}
  void add(autograd::Context ctx, const Lot& lot) override {
    const std::vector<double> coefficients(lot.labels.size(),
                                           -1 / static_cast<double>(num_labels_));
    ops::label_logprob(ctx.exec, {.logits = lot.logits,
                                  .logits_stride = lot.vocab_size,
                                  .labels = lot.labels.data(),
                                  .rows = std::ssize(lot.labels),
                                  .vocab_size = lot.vocab_size,
                                  .coefficients = coefficients.data(),
                                  .d_logits = ctx.tape->grad(lot.logits),
                                  .d_logits_stride = lot.vocab_size});
  }

 private:
  int64_t num_labels_;
};

}  // namespace cachalot::post::testing
