// What the labelled positions of samples weigh, one after the other.
#pragma once

#include <span>
#include <vector>

#include "train/training_model.h"

namespace cachalot::train {

class LabelWeights {
 public:
  // Of the positions from each sample's `first`th on.
  LabelWeights(std::span<const Sample> samples, size_t first);

  // Empty where no sample has weights: then each is 1.
  std::span<const float> values() const { return values_; }
  double total() const { return total_; }

 private:
  std::vector<float> values_;
  double total_ = 0;
};

}  // namespace cachalot::train
