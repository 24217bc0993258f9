#include "train/training_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "autograd/elementwise_grad.h"
#include "autograd/loss_grad.h"
#include "ops/quant/act_quant.h"
#include "train/label_weights.h"
#include "train/sample_batch.h"

namespace cachalot::train {
namespace {

// A slot of several in one stored tensor begins with a block of its own; FP4 groups lie in a row.
Status check_blocks(PreparedFormat format, const model::WeightSlot& slot,
                    const Parameter& parameter) {
  if ((format == PreparedFormat::fp8 || format == PreparedFormat::fp8_of_fp4) &&
      slot.first_row % 128 != 0) {
    return unsupported(fmt::format("{}: expected parts of a multiple of 128 rows, found one at {}",
                                   slot.name, slot.first_row));
  }
  if (format == PreparedFormat::fp8_of_fp4 && parameter.num_columns() % 32 != 0) {
    return unsupported(fmt::format("{}: expected a multiple of 32 columns for FP4, found {}",
                                   slot.name, parameter.num_columns()));
  }
  return {};
}

int64_t count_targets(std::span<const int32_t> labels) {
  return std::count_if(labels.begin(), labels.end(), [](int32_t label) { return label >= 0; });
}

// `weights`: of the rows with a label, or empty.
class CrossEntropy : public LogitsLoss {
 public:
  CrossEntropy(float scale, std::span<const float> weights, double sum)
      : scale_(scale), weights_(weights), sum_(sum) {}
  void add(autograd::Context ctx, const Lot& lot) override {
    const auto weights = weights_.empty()
                             ? weights_
                             : weights_.subspan(static_cast<size_t>(lot.first), lot.labels.size());
    sum_ =
        autograd::cross_entropy(ctx, lot.logits, lot.labels, weights, lot.vocab_size, scale_, sum_);
  }
  double sum() const { return sum_; }

 private:
  float scale_;
  std::span<const float> weights_;
  double sum_;
};

class ExpertProbe : public model::ForwardProbe {
 public:
  ExpertProbe(int64_t num_layers, int64_t per_token) : per_token_(per_token) {
    choices.experts.resize(static_cast<size_t>(num_layers));
  }
  void on_router(int64_t layer, const int32_t* ids, const float*, int64_t rows) override {
    choices.experts[layer].assign(ids, ids + rows * per_token_);
  }
  model::Choices choices;

 private:
  int64_t per_token_;
};

}  // namespace

Result<std::unique_ptr<TrainingModel>> TrainingModel::create(device::ExecContext& ctx,
                                                             formats::ModelConfig config,
                                                             ParameterStore& parameters,
                                                             TrainingPrecision precision) {
  CACHALOT_RETURN_IF_ERROR(precision.validate());
  CACHALOT_ASSIGN_OR_RETURN(
      model::Transformer transformer,
      model::Transformer::create(ctx, std::move(config), parameters, precision.activations()));
  std::unique_ptr<TrainingModel> training(
      new TrainingModel(std::move(transformer), parameters, precision));
  CACHALOT_RETURN_IF_ERROR(training->bind());
  CACHALOT_RETURN_IF_ERROR(training->refresh(ctx));
  return training;
}

Status TrainingModel::bind() {
  for (const model::WeightSlot& slot : transformer_.weights().slots) {
    Parameter* parameter = parameters_.find(slot.name);
    CACHALOT_CHECK_MSG(parameter != nullptr, slot.name);
    if (slot.matrix != nullptr) {
      CACHALOT_RETURN_IF_ERROR(
          check_blocks(prepared_format(precision_, parameter->info), slot, *parameter));
      matrices_.push_back({parameter, slot.first_row, slot.matrix, {}});
    } else {
      vectors_.push_back({parameter, slot.values});
    }
  }
  return {};
}

Status TrainingModel::refresh(device::ExecContext& ctx) {
  recast_ = {};
  for (BoundMatrix& bound : matrices_) {
    const Parameter& parameter = *bound.parameter;
    const int64_t columns = parameter.num_columns();
    const ops::FloatMatrix master{parameter.master.data() + bound.first_row * columns,
                                  bound.packed->rows(), columns, columns};
    const Status status = prepare_weight(ctx, prepared_format(precision_, parameter.info), master,
                                         *bound.packed, bound.transposed, &recast_);
    if (!status.ok()) return {status.code(), parameter.info.name + ": " + status.message()};
  }
  for (BoundVector& bound : vectors_) {
    const Parameter& parameter = *bound.parameter;
    *bound.values = parameter.master;
    if (prepared_format(precision_, parameter.info) == PreparedFormat::f32) continue;
    const auto n = static_cast<int64_t>(bound.values->size());
    ops::round_bf16(ctx, {bound.values->data(), 1, n, n});
  }
  return {};
}

// shared_grad: the member that takes the gradients of what the MTP block shares with the main
// model.
void TrainingModel::bind(autograd::Tape& tape, std::vector<float> Parameter::*shared_grad) {
  const auto grad_of = [&](Parameter& parameter) {
    return (parameter.mtp_grad.empty() ? parameter.grad : parameter.*shared_grad).data();
  };
  for (const BoundMatrix& bound : matrices_) {
    const int64_t columns = bound.parameter->num_columns();
    tape.add_matrix(bound.packed, {grad_of(*bound.parameter) + bound.first_row * columns, columns,
                                   &bound.transposed});
  }
  for (const BoundVector& bound : vectors_) {
    if (bound.parameter->grad.empty()) continue;
    tape.add_parameter(bound.values->data(), static_cast<int64_t>(bound.values->size()),
                       bound.parameter->grad.data());
  }
  Parameter& embed = *parameters_.find("embed.weight");
  tape.add_parameter(embed.master.data(), static_cast<int64_t>(embed.master.size()),
                     grad_of(embed));
}

template <typename Pass>
void TrainingModel::run_recorded(device::ExecContext& ctx, Pass&& pass) {
  const device::ArenaScope scope(*ctx.arena);
  activations_.reset_peak();
  memory_ = {};
  autograd::Tape tape(activations_, ctx);
  bind(tape, &Parameter::grad);
  Batches batches;  // hold rows that backward reads
  pass(autograd::Context(ctx, &tape), batches);
  run_backward(tape);
  memory_.measured_peak = activations_.peak_bytes();
}

LossSums TrainingModel::add_gradients(device::ExecContext& ctx, std::span<const Sample> samples,
                                      const LossWeights& weights, model::TrainingTerms* terms,
                                      model::ForwardProbe* probe, LossSums sums) {
  run_recorded(ctx, [&](autograd::Context recorded, Batches& batches) {
    sums = run(recorded, samples, weights, terms, probe, batches, sums);
  });
  return sums;
}

void TrainingModel::add_gradients(device::ExecContext& ctx, std::span<const Sample> samples,
                                  LogitsLoss& loss, model::TrainingTerms* terms,
                                  model::ForwardProbe* probe) {
  run_recorded(ctx, [&](autograd::Context recorded, Batches& batches) {
    const Forward made = forward(recorded, samples, terms, probe, batches);
    logits_loss(recorded, kMainHead, made.streams, made.labels, terms, loss);
  });
}

LossSums TrainingModel::losses(device::ExecContext& ctx, std::span<const Sample> samples,
                               const LossWeights& weights, model::TrainingTerms* terms,
                               model::ForwardProbe* probe, LossSums sums) {
  const device::ArenaScope scope(*ctx.arena);
  Batches batches;
  return run({ctx, nullptr}, samples, weights, terms, probe, batches, sums);
}

model::Choices TrainingModel::choose_experts(device::ExecContext& ctx,
                                             std::span<const Sample> samples,
                                             bool dense_attention) {
  const formats::ModelConfig& config = transformer_.config();
  size_t longest = 0;
  for (const Sample& sample : samples) longest = std::max(longest, sample.tokens.size());
  const std::vector<int32_t> no_labels(longest, -1);
  std::vector<Sample> unlabelled;
  for (const Sample& sample : samples)
    unlabelled.push_back({sample.tokens, std::span(no_labels).first(sample.tokens.size())});
  ExpertProbe probe(config.num_all_layers(), config.num_experts_per_tok);
  model::TrainingTerms terms;
  terms.dense_attention = dense_attention;
  losses(ctx, unlabelled, {0, 1}, &terms, &probe);
  return std::move(probe.choices);
}

std::vector<float> TrainingModel::last_logits(device::ExecContext& ctx,
                                              std::span<const int32_t> tokens,
                                              bool dense_attention) {
  const device::ArenaScope scope(*ctx.arena);
  const formats::ModelConfig& config = transformer_.config();
  const autograd::Context context(ctx);
  const auto length = static_cast<int64_t>(tokens.size());
  const SampleBatch batch(config, transformer_.precision(),
                          std::vector<int32_t>(tokens.begin(), tokens.end()),
                          std::span(&length, 1));
  model::TrainingTerms terms;
  terms.dense_attention = dense_attention;
  float* embedded = context.floats(length * transformer_.num_streams() * config.hidden_size);
  const float* streams = transformer_.forward(context, batch.batch(), embedded, nullptr, &terms);
  const int64_t last = length - 1;
  std::vector<float> logits(static_cast<size_t>(config.vocab_size));
  transformer_.logits(context, streams, std::span(&last, 1), logits.data());
  return logits;
}

TrainingModel::Forward TrainingModel::forward(autograd::Context ctx,
                                              std::span<const Sample> samples,
                                              model::TrainingTerms* terms,
                                              model::ForwardProbe* probe, Batches& batches) {
  const formats::ModelConfig& config = transformer_.config();
  std::vector<int32_t> tokens, labels;
  std::vector<int64_t> lengths;
  for (const Sample& sample : samples) {
    CACHALOT_CHECK(sample.tokens.size() == sample.labels.size());
    tokens.insert(tokens.end(), sample.tokens.begin(), sample.tokens.end());
    labels.insert(labels.end(), sample.labels.begin(), sample.labels.end());
    lengths.push_back(static_cast<int64_t>(sample.tokens.size()));
  }
  const SampleBatch& batch = *batches.emplace_back(
      std::make_unique<SampleBatch>(config, transformer_.precision(), std::move(tokens), lengths));
  const int64_t rows = batch.rows();
  float* embedded = ctx.floats(rows * transformer_.num_streams() * config.hidden_size);
  return {transformer_.forward(ctx, batch.batch(), embedded, probe, terms), std::move(labels)};
}

LossSums TrainingModel::run(autograd::Context ctx, std::span<const Sample> samples,
                            const LossWeights& weights, model::TrainingTerms* terms,
                            model::ForwardProbe* probe, Batches& batches, LossSums sums) {
  const formats::ModelConfig& config = transformer_.config();
  const auto [streams, labels] = forward(ctx, samples, terms, probe, batches);
  if (weights.mtp != 0 && config.num_nextn_predict_layers > 0)
    mtp_loss(ctx, samples, streams, weights.mtp, terms, probe, batches, sums);
  // Without a weight nothing behind the logits has a gradient.
  const autograd::Context loss_ctx(ctx.exec, weights.lm == 0 ? nullptr : ctx.tape);
  const LabelWeights own(samples, 0);
  CrossEntropy loss(weights.lm, own.values(), sums.lm);
  logits_loss(loss_ctx, kMainHead, streams, labels, terms, loss);
  sums.lm = loss.sum();
  sums.lm_weight += own.total();
  sums.lm_targets += count_targets(labels);
  return sums;
}

// Logits of the rows with a target, their loss and its gradients down to the streams, some rows
// after the other: each lot runs backward on a tape of its own and leaves only its rows' gradient
// of the streams behind. Sums over rows go on where the lot before has ended, so that the cut shows
// in no bit.
void TrainingModel::logits_loss(autograd::Context ctx, int64_t head, const float* streams,
                                std::span<const int32_t> labels, const model::TrainingTerms* terms,
                                LogitsLoss& loss) {
  const int64_t vocab_size = transformer_.config().vocab_size;
  const model::RecomputePlan plan = terms == nullptr ? model::RecomputePlan() : terms->recompute;
  const int64_t lot_rows = plan.rows_of_logits(vocab_size);
  std::vector<int64_t> rows;
  std::vector<int32_t> targets;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] < 0) continue;
    rows.push_back(static_cast<int64_t>(i));
    targets.push_back(labels[i]);
  }
  const auto num_targets = static_cast<int64_t>(rows.size());
  const auto make_lot = [&](autograd::Context lot_ctx, int64_t first, int64_t end) {
    const auto count = static_cast<size_t>(std::min(lot_rows, end - first));
    const std::span<const int64_t> chosen(&rows[first], count);
    float* logits = lot_ctx.floats(static_cast<int64_t>(count) * vocab_size);
    if (head == kMainHead) {
      transformer_.logits(lot_ctx, streams, chosen, logits);
    } else {
      transformer_.mtp_logits(lot_ctx, head, streams, chosen, logits);
    }
    return LogitsLoss::Lot{first, std::span(&targets[first], count), logits, vocab_size};
  };
  if (ctx.tape != nullptr) ctx.tape->grad(streams);  // the outer tape's, not a lot's
  for (int64_t begin = 0, end = 0; begin < num_targets; begin = end) {
    end = loss.lots_end(begin, lot_rows, num_targets);
    const bool is_one_lot = end - begin <= lot_rows;
    for (int64_t first = begin; loss.looks_first() && !is_one_lot && first < end;
         first += lot_rows) {
      const device::ArenaScope scope(*ctx.exec.arena);
      loss.look(ctx.exec, make_lot(ctx.exec, first, end));
    }
    for (int64_t first = begin; first < end; first += lot_rows) {
      const device::ArenaScope scope(*ctx.exec.arena);
      autograd::Tape tape(activations_, ctx.exec, ctx.tape);
      const autograd::Context lot_ctx(ctx.exec, ctx.tape == nullptr ? nullptr : &tape);
      const LogitsLoss::Lot lot = make_lot(lot_ctx, first, end);
      if (loss.looks_first() && is_one_lot) loss.look(ctx.exec, lot);
      if (ctx.tape != nullptr || !loss.looks_first()) loss.add(lot_ctx, lot);
      if (ctx.tape != nullptr) run_backward(tape);
    }
  }
}

void TrainingModel::run_backward(autograd::Tape& tape) {
  tape.backward();
  const autograd::TapeMemory& one = tape.memory();
  memory_.planned_peak = std::max(memory_.planned_peak, one.planned_peak);
  memory_.released_bytes += one.released_bytes;
  memory_.rebuilt_bytes += one.rebuilt_bytes;
  memory_.num_ops += one.num_ops;
  memory_.num_replayed += one.num_replayed;
}

// The block reads the streams of position i with the token at i + 1 and predicts that at i + 2. It
// has a tape of its own that has run backward when this returns: all it leaves behind is its part
// of the streams' gradient, and its memory is the main model's again.
void TrainingModel::mtp_loss(autograd::Context main, std::span<const Sample> samples,
                             const float* streams, float weight, model::TrainingTerms* terms,
                             model::ForwardProbe* probe, Batches& batches, LossSums& sums) {
  const formats::ModelConfig& config = transformer_.config();
  const int64_t width = transformer_.num_streams() * config.hidden_size;
  std::vector<int32_t> tokens, labels;
  std::vector<int64_t> lengths, kept;
  int64_t first = 0;
  for (const Sample& sample : samples) {
    const auto length = static_cast<int64_t>(sample.tokens.size());
    if (length > 1) {
      tokens.insert(tokens.end(), sample.tokens.begin() + 1, sample.tokens.end());
      const auto* label = sample.labels.data() + 1;
      labels.insert(labels.end(), label, label + length - 1);
      lengths.push_back(length - 1);
      for (int64_t i = 0; i + 1 < length; ++i) kept.push_back(first + i);
    }
    first += length;
  }
  if (kept.empty()) return;
  const device::ArenaScope scope(*main.exec.arena);
  // The outer tape's, and so there before this one begins.
  float* d_streams = main.tape == nullptr ? nullptr : main.tape->grad(streams);
  autograd::Tape tape(activations_, main.exec);
  autograd::Context ctx(main.exec);
  if (main.tape != nullptr) {
    ctx.tape = &tape;
    bind(tape, &Parameter::mtp_grad);
    tape.add_parameter(streams, first * width, d_streams);
  }
  const auto rows = static_cast<int64_t>(kept.size());
  const SampleBatch& batch = *batches.emplace_back(
      std::make_unique<SampleBatch>(config, transformer_.precision(), std::move(tokens), lengths));
  float* inputs = ctx.floats(rows * width);
  autograd::gather_rows(ctx, streams, kept, width, inputs);
  float* projected = ctx.floats(rows * width);
  const float* out =
      transformer_.mtp_forward(ctx, 0, batch.batch(), inputs, projected, probe, terms);
  const LabelWeights own(samples, 1);
  CrossEntropy loss(weight, own.values(), sums.mtp);
  logits_loss(ctx, 0, out, labels, terms, loss);
  sums.mtp = loss.sum();
  sums.mtp_weight += own.total();
  sums.mtp_targets += count_targets(labels);
  if (ctx.tape != nullptr) run_backward(tape);
}

}  // namespace cachalot::train
