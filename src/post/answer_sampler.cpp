#include "post/answer_sampler.h"

#include "base/check.h"
#include "post/rollout_engine.h"

namespace cachalot::post {

Status EngineSampler::set_weights(const SamplerWeights& weights) {
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
  CACHALOT_ASSIGN_OR_RETURN(engine_, make_rollout_engine(weights.config, weights.parameters,
                                                         weights.precision, options,
                                                         weights.version));
  return {};
}

Result<bool> EngineSampler::sample(const RolloutPlan& plan, RolloutLog& log, RolloutOptions options,
                                   const std::function<bool()>& wants_pause) {
  CACHALOT_CHECK(engine_ != nullptr);
  options.max_sequences = options_.max_sequences;
  Rollouts rollouts(*engine_, plan, log, std::move(options));
  running_ = &rollouts;
  const Result<bool> is_whole = rollouts.run(wants_pause);
  running_ = nullptr;
  counts_ = rollouts.counts();
  return is_whole;
}

}  // namespace cachalot::post
