// The GRPO part of a post-training set (reference/post-training 2.2).
// Format  settings.json {settings [{name, rollout, epsilon, beta, delta (number or null),
//         keep_routing, keep_mask, advantage, kl, normalisation, constant, expected {loss,
//         all_normalisations {..}, policy_loss, kl_mean, sequence_mask, sequence_divergence,
//         advantage, clipped_tokens}}]}; advantages.json {ROLLOUT: {advantages {RULE: [..]}}};
//         rollout-ROLLOUT.safetensors: sequences (posttrain_set.h), group, rewards, of response
//         tokens logprob, ref_logprob (over the allowed tokens), logprob_full, ref_logprob_full,
//         allowed U8 [tokens, bytes], experts I32 [tokens, score-routed layers, k];
//         expected.safetensors SETTING.{logprob, ratio, kl, objective, coefficient} F64;
//         digest.json {SETTING: {parameter: digest}}; grads-SETTING.safetensors of some.
#pragma once

#include <string>

#include "verify/posttrain_set.h"

namespace cachalot::verify {

Status verify_grpo(const std::string& directory, PosttrainModel& model, GoldenReport& report);

}  // namespace cachalot::verify
