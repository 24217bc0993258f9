#include "train/label_weights.h"

#include <algorithm>

namespace cachalot::train {

LabelWeights::LabelWeights(std::span<const Sample> samples, size_t first) {
  const bool are_all_one =
      std::ranges::all_of(samples, [](const Sample& sample) { return sample.weights.empty(); });
  for (const Sample& sample : samples) {
    for (size_t i = first; i < sample.labels.size(); ++i) {
      if (sample.labels[i] < 0) continue;
      const float weight = sample.weights.empty() ? 1.0f : sample.weights[i];
      if (!are_all_one) values_.push_back(weight);
      total_ += weight;
    }
  }
}

}  // namespace cachalot::train
