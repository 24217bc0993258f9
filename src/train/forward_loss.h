// A loss over samples by a model that is not trained: the reference policy, a teacher.
#pragma once

#include <span>

#include "train/logits_loss.h"
#include "train/training_model.h"

namespace cachalot::train {

// Runs the samples forward and shows the loss the logits of their labelled rows, as
// TrainingModel::add_gradients() does, but without gradients and their memory. The bits are the
// same for the same weights.
void forward_loss(device::ExecContext& ctx, const model::Transformer& model,
                  std::span<const Sample> samples, LogitsLoss& loss,
                  model::TrainingTerms* terms = nullptr, model::ForwardProbe* probe = nullptr);

}  // namespace cachalot::train
