#include "train/trainer.h"

#include <algorithm>
#include <cmath>

#include "ops/moe/balance_loss.h"
#include "ops/rows/rows.h"

namespace cachalot::train {
namespace {

bool is_routing_bias(const Parameter& parameter) {
  return parameter.info.name.ends_with("gate.bias");
}

// The largest magnitude of the streams.
class StepProbe : public model::ForwardProbe {
 public:
  StepProbe(device::ExecContext& ctx, int64_t width) : ctx_(ctx), width_(width) {}
  void on_streams(int64_t, const float* streams, int64_t rows) override {
    max_activation = ops::max_magnitude(ctx_, streams, rows * width_, max_activation);
  }

  float max_activation = 0;

 private:
  device::ExecContext& ctx_;
  int64_t width_;
};

double max_over_mean(const std::vector<std::vector<int64_t>>& loads) {
  double worst = 0;
  for (const std::vector<int64_t>& layer : loads) {
    int64_t sum = 0, most = 0;
    for (const int64_t load : layer) {
      sum += load;
      most = std::max(most, load);
    }
    if (sum > 0)
      worst = std::max(worst, static_cast<double>(most) * static_cast<double>(layer.size()) /
                                  static_cast<double>(sum));
  }
  return worst;
}

[[maybe_unused]] int64_t num_targets(std::span<const Sample> samples) {
  int64_t count = 0;
  for (const Sample& sample : samples)
    count += std::count_if(sample.labels.begin(), sample.labels.end(),
                           [](int32_t label) { return label >= 0; });
  return count;
}
double mean(double sum, int64_t count) {
  return count == 0 ? 0.0 : sum / static_cast<double>(count);
}
float share(double weight, int64_t count) {
  return count == 0 ? 0.0f : static_cast<float>(weight / static_cast<double>(count));
}

}  // namespace

Result<std::unique_ptr<Trainer>> Trainer::create(device::ExecContext& ctx,
                                                 const formats::ModelConfig& model,
                                                 ParameterStore parameters, StepStream stream,
                                                 const TrainerConfig& config) {
  std::unique_ptr<Trainer> trainer(
      new Trainer(ctx, std::move(parameters), std::move(stream), config));
  CACHALOT_ASSIGN_OR_RETURN(
      trainer->model_, TrainingModel::create(ctx, model, trainer->parameters_, config.precision));
  std::vector<optim::OptimizedParameter> optimized;
  for (Parameter& parameter : trainer->parameters_.parameters()) {
    optimized.push_back({parameter.info.name, parameter.info.shape, parameter.master.data(),
                         parameter.grad.empty() ? nullptr : parameter.grad.data()});
  }
  CACHALOT_ASSIGN_OR_RETURN(optim::Optimizer optimizer,
                            optim::Optimizer::create(std::move(optimized), config.optimizer));
  trainer->optimizer_.emplace(std::move(optimizer));
  return trainer;
}

bool Trainer::dense_attention() const {
  return stream_.attention(position_) != optim::AttentionStage::sparse;
}

void Trainer::set_stage(optim::AttentionStage stage) {
  const auto& parameters = parameters_.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const bool indexer = optim::is_indexer_parameter(parameters[i].info.name);
    const bool active = indexer ? stage != optim::AttentionStage::dense
                                : stage != optim::AttentionStage::indexer_warmup;
    optimizer_->set_active(static_cast<int64_t>(i), active);
  }
}

model::TrainingTerms Trainer::terms_of(const StepInput& input) const {
  const optim::AttentionStage stage = input.point.attention;
  model::TrainingTerms terms;
  terms.recompute = config_.recompute;
  terms.dense_attention = stage != optim::AttentionStage::sparse;
  if (stage != optim::AttentionStage::dense)
    terms.indexer_loss = share(config_.indexer_loss, input.batch.num_tokens());
  if (stage != optim::AttentionStage::indexer_warmup) {
    terms.balance_alpha = config_.balance_alpha;
    terms.balance_weight = share(1, input.batch.num_samples());
  }
  terms.loads.resize(static_cast<size_t>(model_->transformer().config().num_all_layers()));
  return terms;
}

StepChoices Trainer::choose_experts(const GlobalBatch& batch) {
  StepChoices choices;
  for (int64_t i = 0; i < batch.num_micro_batches(); ++i)
    choices.push_back(model_->choose_experts(ctx_, batch.micro_batch(i), dense_attention()));
  return choices;
}

Result<std::optional<StepResult>> Trainer::step(bool report_update_rms) {
  CACHALOT_ASSIGN_OR_RETURN(const std::optional<StepInput> input,
                            stream_.read(position_, ctx_.pool));
  if (!input) return std::optional<StepResult>();
  const StepChoices* choices = nullptr;
  if (anticipation_.active()) {
    CACHALOT_ASSIGN_OR_RETURN(choices, anticipation_.choices_of(position_, stream_, ctx_.pool,
                                                                [this](const GlobalBatch& batch) {
                                                                  return choose_experts(batch);
                                                                }));
  }
  const GlobalBatch& batch = input->batch;
  const bool warmup = input->point.attention == optim::AttentionStage::indexer_warmup;
  set_stage(input->point.attention);
  model::TrainingTerms terms = terms_of(*input);
  LossWeights weights{0, 0};
  if (!warmup) {
    weights = {share(1, batch.lm_targets()),
               share(input->point.mtp_loss_weight, batch.mtp_targets())};
  }
  const formats::ModelConfig& config = model_->transformer().config();
  StepProbe probe(ctx_, model_->transformer().num_streams() * config.hidden_size);
  LossSums sums;
  parameters_.clear_grads(ctx_);
  for (int64_t i = 0; i < batch.num_micro_batches(); ++i) {
    if (choices != nullptr) terms.replay = &(*choices)[i];
    sums = model_->add_gradients(ctx_, batch.micro_batch(i), weights, &terms, &probe, sums);
  }
  parameters_.finish_grads(ctx_);

  StepResult result;
  result.optimizer = optimizer_->step(ctx_, input->point.learning_rate,
                                      report_update_rms ? &result.update_rms : nullptr);
  if (!warmup) update_biases(terms);
  CACHALOT_RETURN_IF_ERROR(model_->refresh(ctx_));

  result.recast = model_->recast();
  result.step = input->next.step;
  result.tokens_seen = input->next.tokens_seen;
  result.point = input->point;
  result.num_tokens = batch.num_tokens();
  result.num_targets = batch.lm_targets();
  result.anticipated = choices != nullptr;
  result.lm_loss = mean(sums.lm, sums.lm_targets);
  result.mtp_loss = mean(sums.mtp, sums.mtp_targets);
  result.balance_loss = mean(terms.balance_loss, batch.num_samples());
  result.indexer_kl = mean(terms.indexer_kl, batch.num_tokens());
  result.max_load = max_over_mean(terms.loads);
  result.max_activation = probe.max_activation;
  result.clamped = terms.clamped;
  if (anticipation_.active()) anticipation_.end_step(position_.step);
  position_ = input->next;
  return std::optional<StepResult>(std::move(result));
}

void Trainer::update_biases(const model::TrainingTerms& terms) {
  for (Parameter& parameter : parameters_.parameters()) {
    if (!is_routing_bias(parameter)) continue;
    const std::vector<int64_t>& loads = terms.loads[parameter.info.layer];
    if (!loads.empty()) ops::bias_update(loads, config_.bias_update_rate, parameter.master);
  }
}

Status Trainer::restore(const StreamPosition& position, int64_t anticipated_steps_left,
                        std::map<int64_t, StepChoices> ahead) {
  CACHALOT_RETURN_IF_ERROR(stream_.check(position));
  CACHALOT_RETURN_IF_ERROR(optimizer_->check_state());
  position_ = position;
  anticipation_.restore(anticipated_steps_left, std::move(ahead));
  CACHALOT_RETURN_IF_ERROR(model_->refresh(ctx_));
  return {};
}

}  // namespace cachalot::train
