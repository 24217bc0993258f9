// Supervised learning for tests of what comes after it: -log p of each label, over a given number
// of labels.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "ops/loss/label_logprob.h"
#include "train/logits_loss.h"
#include "train/trainer.h"

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

// One update: what of each text has a label, not negative, is learnt.
inline void learn(train::Trainer& trainer, const std::vector<std::vector<int32_t>>& tokens,
                  const std::vector<std::vector<int32_t>>& labels, double learning_rate) {
  std::vector<train::Sample> samples;
  int64_t num_labels = 0;
  for (size_t n = 0; n < tokens.size(); ++n) {
    samples.push_back({tokens[n], labels[n]});
    num_labels += std::ranges::count_if(labels[n], [](int32_t label) { return label >= 0; });
  }
  LabelLoss loss(num_labels);
  EXPECT_TRUE(trainer.update({learning_rate, {{samples, &loss}}}).has_value());
}

}  // namespace cachalot::post::testing
