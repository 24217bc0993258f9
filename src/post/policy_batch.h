// Answers of a rollout log as one call of the trainer: samples, and what the sampler knew of each
// token.
// Source  reference/post-training 2.2, 15: Keep Routing (of prompt tokens too), Keep Sampling Mask.
// Rows    a sample is prompt and answer without its last token; a row has a label where the next
//         token was sampled.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "post/grpo_loss.h"
#include "post/rollout_log.h"
#include "post/rollout_plan.h"
#include "train/trainer.h"

namespace cachalot::post {

// Owns its arrays; borrows nothing once it is made. Neither copied nor moved: samples point in.
class PolicyBatch {
 public:
  // Answers that have ended, each with a token at least (CHECK). Errors: the log's.
  static Result<std::unique_ptr<PolicyBatch>> create(const RolloutPlan& plan, const RolloutLog& log,
                                                     std::span<const int64_t> answers,
                                                     const formats::ModelConfig& config);
  PolicyBatch(const PolicyBatch&) = delete;
  PolicyBatch& operator=(const PolicyBatch&) = delete;

  std::span<const train::Sample> samples() const { return samples_; }
  const model::Choices& choices() const { return choices_; }  // of every row
  // Null where no token was cut.
  AllowedTokens allowed() const;

  // Of labelled rows, answer after answer.
  const std::vector<int64_t>& offsets() const { return offsets_; }  // [answers + 1]
  const std::vector<double>& sampler() const { return sampler_; }
  int64_t num_labels() const { return offsets_.back(); }
  int64_t num_rows() const { return num_rows_; }

 private:
  explicit PolicyBatch(int64_t allowed_stride) : allowed_stride_(allowed_stride) {}

  std::vector<std::vector<int32_t>> tokens_, labels_;
  std::vector<train::Sample> samples_;
  model::Choices choices_;
  std::vector<int64_t> offsets_ = {0};
  std::vector<double> sampler_;
  std::vector<uint8_t> allowed_;
  int64_t allowed_stride_;
  bool is_cut_ = false;
  int64_t num_rows_ = 0;
};

struct LogprobOptions {
  double temperature = 1;
  bool keeps_routing = true;  // the recorded experts, or the model's own
  bool keeps_mask = true;
};
// Of the batch's labels by a model that stands still.
std::vector<double> policy_logprobs(device::ExecContext& ctx, const model::Transformer& model,
                                    const PolicyBatch& batch, const LogprobOptions& options);

}  // namespace cachalot::post
