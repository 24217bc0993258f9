#include "post/answer_sampler.h"

#include <algorithm>

#include "base/check.h"
#include "post/rollout_engine.h"

namespace cachalot::post {

Status EngineSampler::set_weights(const SamplerWeights& weights) {
  if (tokenizer_json_ != weights.tokenizer_json) masks_.reset();
  tokenizer_json_ = weights.tokenizer_json;
  if (engine_ != nullptr && engine_->max_context_tokens() >= weights.max_context_tokens) {
    CACHALOT_ASSIGN_OR_RETURN(
        std::unique_ptr<engine::LoadedModel> model,
        served_model(weights.config, weights.parameters, weights.precision, options_.threads));
    return engine_->set_weights(std::move(model), weights.version);
  }
  RolloutEngineOptions options;
  options.max_sequences = options_.max_sequences;
  options.max_context_tokens = weights.max_context_tokens;
  options.max_drafts = options_.max_drafts;
  options.threads = options_.threads;
  CACHALOT_ASSIGN_OR_RETURN(
      engine_, make_rollout_engine(weights.config, weights.parameters, weights.precision, options,
                                   weights.version));
  return {};
}

Result<bool> EngineSampler::sample(const RolloutPlan& plan, RolloutLog& log, RolloutOptions options,
                                   const std::function<bool()>& wants_pause) {
  CACHALOT_CHECK(engine_ != nullptr);
  options.max_sequences = options_.max_sequences;
  if (std::ranges::any_of(plan.groups, [](const RolloutGroup& g) { return !g.schema.empty(); })) {
    if (masks_ == nullptr) {
      CACHALOT_ASSIGN_OR_RETURN(masks_,
                                AnswerMasks::create(tokenizer_json_, engine_->config().vocab_size));
    }
    options.make_mask = [&](int64_t answer, const RolloutAnswer& so_far) {
      return masks_->mask_of(plan, answer, so_far);
    };
  }
  Rollouts rollouts(*engine_, plan, log, std::move(options));
  running_ = &rollouts;
  const Result<bool> is_whole = rollouts.run(wants_pause);
  running_ = nullptr;
  counts_ = rollouts.counts();
  return is_whole;
}

}  // namespace cachalot::post
