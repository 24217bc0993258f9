// The distillation part of a post-training set (reference/post-training 8, 9.2, 15).
// Format  trajectories.safetensors: sequences (posttrain_set.h), hidden.K F32 [responses, d] and
//         head.K F32 [V, d] of teacher K. settings.json {teachers [{seed, scale}], settings
//         [{name, estimator: full or sampled, teacher_logits: direct, float32 or bfloat16, weights
//         [sample][teacher], loss_sum_over_samples}]}. expected.safetensors: single.kl F64
//         [response, teacher]; where there are, NAME.dlogits F32 [response, V] and, of the sampled,
//         NAME.advantage F64 [response]. digest.json, grads-NAME.safetensors as for GRPO, of the
//         sum over samples.
// Teachers  direct: the model with its weights perturbed by the set's rule, run here; else the
//         set's states and heads, rounded to the type.
#pragma once

#include <string>

#include "verify/posttrain_set.h"

namespace cachalot::verify {

// `model_directory`: where `model` was loaded from.
Status verify_opd(const std::string& directory, const std::string& model_directory,
                  PosttrainModel& model, GoldenReport& report);

}  // namespace cachalot::verify
