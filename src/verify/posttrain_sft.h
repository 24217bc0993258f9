// The fine-tuning part of a post-training set (reference/post-training 2.1).
// Format  packs.safetensors: tokens, position, segment I32 [rows, length], loss_mask U8, nll F64
//         likewise. A run of one segment >= 0 in a row is a conversation; -1 is unused room.
//         loss_mask 1: the token is a target, predicted from the one before it.
//         settings.json {settings [{normalisation: token-mean or conversation-mean, loss}]};
//         digest.json, grads-NORMALISATION.safetensors as for GRPO.
#pragma once

#include <string>

#include "verify/posttrain_set.h"

namespace cachalot::verify {

Status verify_sft(const std::string& directory, PosttrainModel& model, GoldenReport& report);

}  // namespace cachalot::verify
