// What a model's head multiplies: lanes mixed, normalised.
#pragma once

#include <span>
#include <vector>

#include "train/training_model.h"

namespace cachalot::train {

// At the positions of the samples with a label, in their order: [positions, hidden_size].
std::vector<float> final_states(device::ExecContext& ctx, const model::Transformer& model,
                                std::span<const Sample> samples,
                                model::TrainingTerms* terms = nullptr);

}  // namespace cachalot::train
