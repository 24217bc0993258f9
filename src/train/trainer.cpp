#include "train/trainer.h"

#include <algorithm>
#include <cmath>

#include "ops/moe/balance_loss.h"
#include "ops/rows/rows.h"
#include "train/forward_loss.h"

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
double mean(double sum, double count) { return count == 0 ? 0.0 : sum / count; }
float share(double weight, double count) {
  return count == 0 ? 0.0f : static_cast<float>(weight / count);
}

}  // namespace

Result<std::unique_ptr<Trainer>> Trainer::create(device::ExecContext& ctx,
                                                 const formats::ModelConfig& model,
                                                 ParameterStore parameters,
                                                 std::optional<StepStream> stream,
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
  return stream_ && stream_->attention(position_) != optim::AttentionStage::sparse;
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

model::TrainingTerms Trainer::terms_of(optim::AttentionStage stage, int64_t num_tokens,
                                       int64_t num_samples) const {
  model::TrainingTerms terms;
  terms.recompute = config_.recompute;
  terms.dense_attention = stage != optim::AttentionStage::sparse;
  if (stage != optim::AttentionStage::dense)
    terms.indexer_loss = share(config_.indexer_loss, static_cast<double>(num_tokens));
  if (stage != optim::AttentionStage::indexer_warmup) {
    terms.balance_alpha = config_.balance_alpha;
    terms.balance_weight = share(1, static_cast<double>(num_samples));
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
  if (!stream_) return std::optional<StepResult>();
  CACHALOT_ASSIGN_OR_RETURN(const std::optional<StepInput> input,
                            stream_->read(position_, ctx_.pool));
  if (!input) return std::optional<StepResult>();
  const StepChoices* choices = nullptr;
  if (anticipation_.active()) {
    CACHALOT_ASSIGN_OR_RETURN(choices, anticipation_.choices_of(position_, *stream_, ctx_.pool,
                                                                [this](const GlobalBatch& batch) {
                                                                  return choose_experts(batch);
                                                                }));
  }
  const GlobalBatch& batch = input->batch;
  const bool warmup = input->point.attention == optim::AttentionStage::indexer_warmup;
  set_stage(input->point.attention);
  model::TrainingTerms terms =
      terms_of(input->point.attention, batch.num_tokens(), batch.num_samples());
  LossWeights weights{0, 0};
  if (!warmup) {
    weights = {share(1, batch.lm_weight()),
               share(input->point.mtp_loss_weight, batch.mtp_weight())};
  }
  const formats::ModelConfig& config = model_->transformer().config();
  StepProbe probe(ctx_, model_->transformer().num_streams() * config.hidden_size);
  LossSums sums;
  parameters_.clear_grads(ctx_);
  for (int64_t i = 0; i < batch.num_micro_batches(); ++i) {
    if (choices != nullptr) terms.replay = &(*choices)[i];
    sums = model_->add_gradients(ctx_, batch.micro_batch(i), weights, &terms, &probe, sums);
  }
  CACHALOT_ASSIGN_OR_RETURN(StepResult result,
                            apply_gradients(input->point, batch.num_tokens(), batch.num_samples(),
                                            terms, report_update_rms));
  result.step = input->next.step;
  result.tokens_seen = input->next.tokens_seen;
  result.num_targets = batch.lm_targets();
  result.anticipated = choices != nullptr;
  result.lm_loss = mean(sums.lm, sums.lm_weight);
  result.mtp_loss = mean(sums.mtp, sums.mtp_weight);
  result.max_activation = probe.max_activation;
  if (anticipation_.active()) anticipation_.end_step(position_.step);
  position_ = input->next;
  return std::optional<StepResult>(std::move(result));
}

Result<StepResult> Trainer::update(const Update& update) {
  optim::TrainingPoint point{};
  point.learning_rate = update.learning_rate;
  point.attention = optim::AttentionStage::sparse;
  int64_t num_tokens = 0, num_samples = 0, num_targets = 0;
  for (const MicroBatch& micro_batch : update.micro_batches) {
    num_samples += static_cast<int64_t>(micro_batch.samples.size());
    for (const Sample& sample : micro_batch.samples) {
      num_tokens += static_cast<int64_t>(sample.tokens.size());
      num_targets += std::ranges::count_if(sample.labels, [](int32_t label) { return label >= 0; });
    }
  }
  set_stage(point.attention);
  model::TrainingTerms terms = terms_of(point.attention, num_tokens, num_samples);
  StepProbe probe(ctx_,
                  model_->transformer().num_streams() * model_->transformer().config().hidden_size);
  parameters_.clear_grads(ctx_);
  for (const MicroBatch& micro_batch : update.micro_batches) {
    terms.replay = micro_batch.replay;
    if (micro_batch.is_flat && config_.balance_alpha == 0 && config_.indexer_loss == 0) {
      forward_loss(ctx_, model_->transformer(), micro_batch.samples, *micro_batch.loss, &terms,
                   &probe);
    } else {
      model_->add_gradients(ctx_, micro_batch.samples, *micro_batch.loss, &terms, &probe);
    }
    CACHALOT_RETURN_IF_ERROR(micro_batch.loss->status());
  }
  CACHALOT_ASSIGN_OR_RETURN(StepResult result,
                            apply_gradients(point, num_tokens, num_samples, terms, false));
  position_.step += 1;
  position_.tokens_seen += num_tokens;
  result.step = position_.step;
  result.tokens_seen = position_.tokens_seen;
  result.num_targets = num_targets;
  result.max_activation = probe.max_activation;
  return result;
}

Result<StepResult> Trainer::apply_gradients(const optim::TrainingPoint& point, int64_t num_tokens,
                                            int64_t num_samples, const model::TrainingTerms& terms,
                                            bool report_update_rms) {
  parameters_.finish_grads(ctx_);
  StepResult result;
  result.optimizer =
      optimizer_->step(ctx_, point.learning_rate, report_update_rms ? &result.update_rms : nullptr);
  if (point.attention != optim::AttentionStage::indexer_warmup) update_biases(terms);
  CACHALOT_RETURN_IF_ERROR(model_->refresh(ctx_));
  result.recast = model_->recast();
  result.point = point;
  result.num_tokens = num_tokens;
  result.balance_loss = mean(terms.balance_loss, static_cast<double>(num_samples));
  result.indexer_kl = mean(terms.indexer_kl, static_cast<double>(num_tokens));
  result.max_load = max_over_mean(terms.loads);
  result.clamped = terms.clamped;
  return result;
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
  if (stream_) CACHALOT_RETURN_IF_ERROR(stream_->check(position));
  CACHALOT_RETURN_IF_ERROR(optimizer_->check_state());
  position_ = position;
  anticipation_.restore(anticipated_steps_left, std::move(ahead));
  CACHALOT_RETURN_IF_ERROR(model_->refresh(ctx_));
  return {};
}

}  // namespace cachalot::train
