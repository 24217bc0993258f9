#include "post/policy_batch.h"

#include <algorithm>

#include "base/check.h"
#include "post/rollouts.h"
#include "train/forward_loss.h"

namespace cachalot::post {

Result<std::unique_ptr<PolicyBatch>> PolicyBatch::create(const RolloutPlan& plan,
                                                         const RolloutLog& log,
                                                         std::span<const int64_t> answers,
                                                         const formats::ModelConfig& config) {
  std::unique_ptr<PolicyBatch> batch(new PolicyBatch((config.vocab_size + 7) / 8));
  PolicyBatch& b = *batch;
  const std::vector<int64_t> layers = routed_layers(config);
  const int64_t per_token = config.num_experts_per_tok;
  const auto per_row = static_cast<int64_t>(layers.size()) * per_token;
  b.choices_.experts.resize(static_cast<size_t>(config.num_all_layers()));
  const auto add_choices = [&](const std::vector<uint16_t>& experts, int64_t num_rows) {
    CACHALOT_CHECK(static_cast<int64_t>(experts.size()) == num_rows * per_row);
    for (int64_t row = 0; row < num_rows; ++row) {
      for (size_t i = 0; i < layers.size(); ++i) {
        const uint16_t* chosen =
            experts.data() + row * per_row + static_cast<int64_t>(i) * per_token;
        auto& all = b.choices_.experts[layers[i]];
        all.insert(all.end(), chosen, chosen + per_token);
      }
    }
  };
  b.tokens_.reserve(answers.size());
  b.labels_.reserve(answers.size());
  for (const int64_t number : answers) {
    const RolloutAnswer& answer = log.answers()[number];
    CACHALOT_ASSIGN_OR_RETURN(const HeavyFields heavy, log.heavy(number));
    CACHALOT_CHECK(answer.end != AnswerEnd::open && !answer.ids.empty());
    const std::vector<int32_t>& prompt = plan.group_of(number).prompt;
    std::vector<int32_t>& tokens = b.tokens_.emplace_back(prompt);
    tokens.insert(tokens.end(), answer.ids.begin(), answer.ids.end() - 1);
    std::vector<int32_t>& labels = b.labels_.emplace_back(tokens.size(), -1);
    for (size_t i = 0; i < answer.ids.size(); ++i) {
      if (!answer.is_sampled[i]) continue;
      labels[prompt.size() - 1 + i] = answer.ids[i];
      b.sampler_.push_back(answer.logprobs[i]);
      const std::vector<int32_t>& ids = heavy.allowed[i];
      const size_t first = b.allowed_.size();
      b.allowed_.resize(first + static_cast<size_t>(b.allowed_stride_), ids.empty() ? 0xFF : 0);
      for (const int32_t id : ids)
        b.allowed_[first + static_cast<size_t>(id >> 3)] |= static_cast<uint8_t>(1 << (id & 7));
      b.is_cut_ = b.is_cut_ || !ids.empty();
    }
    b.samples_.push_back({tokens, labels});
    b.offsets_.push_back(static_cast<int64_t>(b.sampler_.size()));
    b.num_rows_ += static_cast<int64_t>(tokens.size());
    add_choices(heavy.prompt_experts, static_cast<int64_t>(prompt.size()) - 1);
    add_choices(heavy.experts, static_cast<int64_t>(answer.ids.size()));
  }
  return batch;
}

AllowedTokens PolicyBatch::allowed() const {
  return is_cut_ ? AllowedTokens{allowed_.data(), allowed_stride_} : AllowedTokens{};
}

std::vector<double> policy_logprobs(device::ExecContext& ctx, const model::Transformer& model,
                                    const PolicyBatch& batch, const LogprobOptions& options) {
  const std::vector<double> zeros(std::max(batch.offsets().size() - 1, batch.sampler().size()));
  const GrpoRows rows{batch.offsets(), std::span(zeros).first(batch.offsets().size() - 1),
                      batch.sampler(), std::span(zeros).first(batch.sampler().size())};
  GrpoLoss loss(rows, {rows.num_sequences(), rows.num_tokens()}, {},
                options.keeps_mask ? batch.allowed() : AllowedTokens{},
                static_cast<float>(options.temperature));
  model::TrainingTerms terms;
  if (options.keeps_routing) terms.replay = &batch.choices();
  train::forward_loss(ctx, model, batch.samples(), loss, &terms);
  return loss.logprobs();
}

}  // namespace cachalot::post
