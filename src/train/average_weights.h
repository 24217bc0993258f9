// The weighted mean of models of one shape, weight by weight.
// Source  reference/post-training 1 (PL2): what distillation is held against.
// Numerics  summed in double, in the order given.
// Errors  those of the models' files; invalid_argument: other names, shapes or hash tables than the
//         first one's, or no weight above 0.
// Threads one owner.
#pragma once

#include <span>
#include <string>

#include "base/status.h"
#include "train/parameters.h"

namespace cachalot::train {

struct WeightedModel {
  std::string directory;
  double weight = 1;  // at least 0
};

Result<ParameterStore> average_weights(std::span<const WeightedModel> models);

}  // namespace cachalot::train
