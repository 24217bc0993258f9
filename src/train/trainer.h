// A training run's state and its step: parameters, optimizer, place in the data, routing biases,
// anticipatory routing.
// Source  reference/training 6 (schedules, losses), 7.1.
// step()  Reads the step's samples, runs forward and backward over its micro-batches, takes one
//         optimizer step, moves the routing biases, packs the weights anew. The loss is L_LM +
//         lambda L_MTP + the mean over samples of every layer's balance loss + the mean over
//         positions of every CSA layer's indexer KL, each over the whole global batch.
// update()  The same step on samples and a loss of the caller's; the MTP block does not run.
// Stages  dense: the indexer is not trained. indexer_warmup: nothing else is, routing biases
//         included. sparse: all.
// Numerics  the state after a step has the same bits for any number of threads, any cut into
//         micro-batches (but at precision fp8: its scales reach over 128 rows of a micro-batch),
//         and after a restore.
// Threads  one owner.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device/exec_context.h"
#include "optim/optimizer.h"
#include "train/anticipation.h"
#include "train/parameters.h"
#include "train/step_stream.h"
#include "train/training_model.h"

namespace cachalot::train {

struct TrainerConfig {
  optim::OptimizerConfig optimizer;
  TrainingPrecision precision;
  float balance_alpha = 1e-4f;
  float bias_update_rate = 0.001f;
  float indexer_loss = 1;
  model::RecomputePlan recompute;
  int64_t anticipation_delta_steps = 4;
};

struct StepResult {
  int64_t step = 0;         // steps done, this one included
  int64_t tokens_seen = 0;  // likewise
  optim::TrainingPoint point{};
  int64_t num_tokens = 0;  // without what packs left empty
  int64_t num_targets = 0;
  bool anticipated = false;
  double lm_loss = 0;       // mean over targets by their weights, in nats
  double mtp_loss = 0;      // likewise, without lambda
  double balance_loss = 0;  // mean over samples, summed over layers
  double indexer_kl = 0;    // mean over positions, summed over layers
  // the most loaded expert's load over its layer's mean, largest of all layers; 0: no router
  double max_load = 0;
  double max_activation = 0;  // largest magnitude in the residual streams
  ops::SwigluClampCounts clamped;
  formats::RecastCounts recast;  // of the weights that the step left, under qat (prepared_weight.h)
  optim::StepReport optimizer;
  std::vector<optim::UpdateRms> update_rms;  // where asked for
};

// What update() trains on. Borrowed for the call.
struct MicroBatch {
  std::span<const Sample> samples;
  LogitsLoss* loss;                        // weighed by what the whole update holds
  const model::Choices* replay = nullptr;  // these experts instead of those the model would choose
  // Its loss has no slope: it runs forward alone, where the layers' own losses have none either. It
  // counts as the others do, and the step has the same bits.
  bool is_flat = false;
};
struct Update {
  double learning_rate;
  std::vector<MicroBatch> micro_batches;
};

class Trainer {
 public:
  // Without a stream step() has nothing to read, and attention is sparse.
  // Errors  the configuration's, with the key's name.
  static Result<std::unique_ptr<Trainer>> create(device::ExecContext& ctx,
                                                 const formats::ModelConfig& model,
                                                 ParameterStore parameters,
                                                 std::optional<StepStream> stream,
                                                 const TrainerConfig& config);
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // Nothing once the budget is spent.
  // Errors  the data sources'; the state is then that of before the step. Or a master that is no
  //         longer finite, at precision fp8: the run is over.
  Result<std::optional<StepResult>> step(bool report_update_rms = false);
  // Of the result's losses the layers' own alone are there.
  // Errors  a loss's, the state is then that of before; or a master that is no longer finite, at
  //         precision fp8: the run is over.
  Result<StepResult> update(const Update& update);
  // Routes by stale choices for the next num_steps steps.
  void anticipate(int64_t num_steps) { anticipation_.begin(num_steps); }

  const StreamPosition& position() const { return position_; }
  const Anticipation& anticipation() const { return anticipation_; }
  ParameterStore& parameters() { return parameters_; }
  optim::Optimizer& optimizer() { return *optimizer_; }
  TrainingModel& model() { return *model_; }
  device::ExecContext& context() { return ctx_; }
  // The attention that the next step trains, for evaluations.
  bool dense_attention() const;

  // After parameters() and the optimizer's state have been written from a checkpoint.
  // Errors  a position that is not of this run.
  Status restore(const StreamPosition& position, int64_t anticipated_steps_left,
                 std::map<int64_t, StepChoices> ahead);

 private:
  Trainer(device::ExecContext& ctx, ParameterStore parameters, std::optional<StepStream> stream,
          const TrainerConfig& config)
      : ctx_(ctx),
        config_(config),
        parameters_(std::move(parameters)),
        stream_(std::move(stream)),
        anticipation_(config.anticipation_delta_steps) {
    if (stream_) position_ = stream_->start();
  }
  model::TrainingTerms terms_of(optim::AttentionStage stage, int64_t num_tokens,
                                int64_t num_samples) const;
  // The optimizer's step on the gradients that are there, and what the layers' terms say.
  Result<StepResult> apply_gradients(const optim::TrainingPoint& point, int64_t num_tokens,
                                     int64_t num_samples, const model::TrainingTerms& terms,
                                     bool report_update_rms);
  StepChoices choose_experts(const GlobalBatch& batch);
  void set_stage(optim::AttentionStage stage);
  void update_biases(const model::TrainingTerms& terms);

  device::ExecContext& ctx_;
  TrainerConfig config_;
  ParameterStore parameters_;
  std::optional<StepStream> stream_;
  StreamPosition position_;
  Anticipation anticipation_;
  std::unique_ptr<TrainingModel> model_;
  std::optional<optim::Optimizer> optimizer_;
};

}  // namespace cachalot::train
