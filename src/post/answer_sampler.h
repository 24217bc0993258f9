// Who samples a step's answers: an engine of this process (EngineSampler), or workers of their own
// (rollout/hub.h). Which it is, and how many they are, shows in no bit.
// Source  reference/post-training 9.3.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "engine/engine.h"
#include "post/answer_masks.h"
#include "post/rollouts.h"
#include "train/parameters.h"
#include "train/training_precision.h"

namespace cachalot::post {

// What samples plans of one version. Borrowed for the call.
struct SamplerWeights {
  const formats::ModelConfig& config;
  const train::ParameterStore& parameters;
  train::TrainingPrecision precision;
  std::string_view tokenizer_json;  // for plans with schemas; may be empty without
  int64_t version = 0;
  int64_t max_context_tokens = 0;  // prompt and answer, the longest of all plans of the version
};

class AnswerSampler {
 public:
  virtual ~AnswerSampler() = default;
  virtual Status set_weights(const SamplerWeights& weights) = 0;
  // Until every answer of the plan, whose version is that of the weights (CHECK), has ended in the
  // log, or wants_pause() says true. False: paused; what has been sampled is in the log.
  // Threads  on_turn may be called from another thread, while this one is in here.
  virtual Result<bool> sample(const RolloutPlan& plan, RolloutLog& log, const OnTurn& on_turn,
                              const std::function<bool()>& wants_pause) = 0;
  // Of the last sample(), or of the one under way.
  virtual const RolloutCounts& counts() const = 0;
};

struct EngineSamplerOptions {
  int64_t max_sequences = 8;
  int64_t max_drafts = 0;
  int threads = 0;  // 0: one per usable core
};

class EngineSampler : public AnswerSampler {
 public:
  explicit EngineSampler(const EngineSamplerOptions& options) : options_(options) {}

  Status set_weights(const SamplerWeights& weights) override;
  Result<bool> sample(const RolloutPlan& plan, RolloutLog& log, const OnTurn& on_turn,
                      const std::function<bool()>& wants_pause) override {
    RolloutOptions options;
    options.on_turn = on_turn;
    return sample(plan, log, std::move(options), wants_pause);
  }
  const RolloutCounts& counts() const override {
    return running_ == nullptr ? counts_ : running_->counts();
  }

  // With more of the options; max_sequences is this sampler's.
  Result<bool> sample(const RolloutPlan& plan, RolloutLog& log, RolloutOptions options,
                      const std::function<bool()>& wants_pause);

 private:
  EngineSamplerOptions options_;
  std::unique_ptr<engine::Engine> engine_;
  std::string tokenizer_json_;
  std::unique_ptr<AnswerMasks> masks_;  // once they are needed
  const Rollouts* running_ = nullptr;
  RolloutCounts counts_;
};

}  // namespace cachalot::post
