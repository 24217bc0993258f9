#include "post/rl_step.h"

#include <algorithm>
#include <memory>

#include "base/check.h"
#include "post/batch_layout.h"

namespace cachalot::post {
namespace {

std::vector<double> advantages_of(const RolloutPlan& plan, const RolloutLog& log,
                                  const AdvantageRule& rule) {
  std::vector<double> rewards;
  std::vector<int64_t> groups;
  for (size_t i = 0; i < log.answers().size(); ++i) {
    CACHALOT_CHECK(log.answers()[i].reward.has_value());
    rewards.push_back(log.answers()[i].reward->value);
    groups.push_back(static_cast<int64_t>(i) / plan.group_size);
  }
  return group_advantages(rewards, groups, rule);
}

// One call of the trainer, with its loss.
struct Call {
  std::unique_ptr<PolicyBatch> batch;
  std::vector<double> advantages, reference;
  std::optional<GrpoLoss> loss;
  bool is_flat = false;
};

class Totals {
 public:
  void add(const GrpoValues& values, bool is_first) {
    for (size_t t = 0; t < values.ratio.size(); ++t) {
      kl_ += values.kl[t];
      ratio_ += values.ratio[t];
      objective_ += values.objective[t];
      if (!is_first) continue;
      first_ratio_ += values.ratio[t];
      num_off_ += values.ratio[t] != 1;
    }
    const auto tokens = static_cast<int64_t>(values.ratio.size());
    tokens_ += tokens;
    first_tokens_ += is_first ? tokens : 0;
    clipped_ += values.num_clipped;
    sequences_ += static_cast<int64_t>(values.kept.size());
    masked_ += std::ranges::count(values.kept, false);
    for (const double divergence : values.divergence) divergence_ += divergence;
  }
  void write(RlStepReport& report) const {
    const auto tokens = static_cast<double>(tokens_), sequences = static_cast<double>(sequences_);
    report.kl = kl_ / tokens;
    report.ratio = ratio_ / tokens;
    report.first_ratio = first_ratio_ / static_cast<double>(first_tokens_);
    report.first_off_ratio = num_off_;
    report.clipped = static_cast<double>(clipped_) / tokens;
    report.masked = static_cast<double>(masked_) / sequences;
    report.divergence = divergence_ / sequences;
    report.objective = objective_ / tokens;
    report.num_tokens = tokens_;
  }

 private:
  double kl_ = 0, ratio_ = 0, first_ratio_ = 0, divergence_ = 0, objective_ = 0;
  int64_t num_off_ = 0, tokens_ = 0, first_tokens_ = 0, clipped_ = 0, sequences_ = 0, masked_ = 0;
};

}  // namespace

Result<RlStepReport> rl_step(train::Trainer& trainer, const model::Transformer* reference,
                             const RolloutPlan& plan, const RolloutLog& log,
                             const RlStepOptions& options) {
  CACHALOT_CHECK(reference != nullptr || options.grpo.beta == 0);
  const formats::ModelConfig& config = trainer.model().transformer().config();
  const std::vector<double> advantages = advantages_of(plan, log, options.advantage);
  std::vector<AnswerShape> shapes;
  for (size_t i = 0; i < advantages.size(); ++i) {
    const size_t prompt = plan.group_of(static_cast<int64_t>(i)).prompt.size();
    shapes.push_back(
        {static_cast<int64_t>(prompt + log.answers()[i].ids.size()), advantages[i] == 0});
  }
  LayoutOptions layout{options.mini_batches, options.micro_batch_tokens};
  if (options.shuffle) {
    layout.shuffle = RngStream(plan.seed, RngPurpose::data, static_cast<uint64_t>(plan.step));
  }
  RlStepReport report;
  Totals totals;
  double logprobs = 0;
  bool is_first = true;
  for (const std::vector<CallAnswers>& mini_batch : batch_layout(shapes, layout)) {
    std::vector<std::unique_ptr<Call>> calls;
    MiniBatch whole{0, 0};
    for (const CallAnswers& answers : mini_batch) {
      Call& call = *calls.emplace_back(std::make_unique<Call>());
      CACHALOT_ASSIGN_OR_RETURN(call.batch, PolicyBatch::create(plan, log, answers, config));
      for (const int64_t number : answers) call.advantages.push_back(advantages[number]);
      call.is_flat = shapes[answers.front()].is_flat && options.grpo.beta == 0;
      if (call.is_flat) report.flat += static_cast<double>(answers.size());
      call.reference = reference == nullptr
                           ? call.batch->sampler()
                           : policy_logprobs(trainer.context(), *reference, *call.batch,
                                             {.temperature = plan.sampling.temperature,
                                              .keeps_routing = false,  // its experts are its own
                                              .keeps_mask = options.keep_sampling_mask});
      whole.num_sequences += static_cast<int64_t>(answers.size());
      whole.num_tokens += call.batch->num_labels();
      for (const double logprob : call.batch->sampler()) logprobs += logprob;
    }
    train::Update update{options.learning_rate, {}};
    for (const std::unique_ptr<Call>& call : calls) {
      const GrpoRows rows{call->batch->offsets(), call->advantages, call->batch->sampler(),
                          call->reference};
      call->loss.emplace(rows, whole, options.grpo,
                         options.keep_sampling_mask ? call->batch->allowed() : AllowedTokens{},
                         static_cast<float>(plan.sampling.temperature));
      update.micro_batches.push_back({call->batch->samples(), &*call->loss,
                                      options.keep_routing ? &call->batch->choices() : nullptr,
                                      call->is_flat});
    }
    CACHALOT_ASSIGN_OR_RETURN(report.last, trainer.update(update));
    for (const std::unique_ptr<Call>& call : calls) totals.add(call->loss->values(), is_first);
    is_first = false;
    report.grad_norm += report.last.optimizer.grad_norm / static_cast<double>(options.mini_batches);
  }
  totals.write(report);
  report.flat /= static_cast<double>(advantages.size());
  report.entropy = -logprobs / static_cast<double>(report.num_tokens);
  return report;
}

}  // namespace cachalot::post
