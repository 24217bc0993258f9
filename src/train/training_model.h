// The model in training: packs its weights from the masters, runs the one forward over samples with
// a tape, and adds the gradients of the loss to the parameters'.
// Source  reference/training 6.4, 6.7.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "autograd/tape.h"
#include "device/exec_context.h"
#include "device/paged_arena.h"
#include "model/transformer.h"
#include "train/logits_loss.h"
#include "train/parameters.h"
#include "train/prepared_weight.h"
#include "train/sample_batch.h"

namespace cachalot::train {

struct Sample {
  std::span<const int32_t> tokens;
  // of each position: the next token's id, or -1 where there is none, or none that is learnt
  std::span<const int32_t> labels;
  std::span<const float> weights = {};  // of each position's loss, above 0; none given: all 1
};

// How the samples' losses are weighed. Factors stay those of the whole global batch however it is
// cut into calls.
struct LossWeights {
  // of each labelled position: 1 / sum of their own weights in the global batch; 0: no gradient
  float lm = 1;
  float mtp = 0;  // of each position with a second next token; 0: the MTP block does not run
};

// Without the factors above, with the positions' own weights; of several calls: each goes on from
// the sums of those before.
struct LossSums {
  double lm = 0;
  double lm_weight = 0;  // of the labelled positions; without weights, their number
  int64_t lm_targets = 0;
  double mtp = 0;
  double mtp_weight = 0;
  int64_t mtp_targets = 0;
};

// Borrows the parameters, which must outlive it. Threads: one owner.
class TrainingModel {
 public:
  // Errors  also unsupported: a matrix whose shape the precision's blocks do not fit.
  static Result<std::unique_ptr<TrainingModel>> create(device::ExecContext& ctx,
                                                       formats::ModelConfig config,
                                                       ParameterStore& parameters,
                                                       TrainingPrecision precision);

  const model::Transformer& transformer() const { return transformer_; }

  // Prepares the weights anew: after every change of the masters.
  // Errors  prepared_weight.h's, with the tensor's name.
  Status refresh(device::ExecContext& ctx);
  // Of the last refresh, under qat: whether the experts' FP4 scales lay close enough for FP8
  // (prepared_weight.h).
  const formats::RecastCounts& recast() const { return recast_; }

  // Adds the gradients of the weighted losses of the samples to the parameters' (whose
  // finish_grads() ends a step), and the losses to `sums`, row after row, so that their bits too
  // depend on no cut. `terms`, if given, is what layers add and report (the MTP block's too).
  LossSums add_gradients(device::ExecContext& ctx, std::span<const Sample> samples,
                         const LossWeights& weights, model::TrainingTerms* terms = nullptr,
                         model::ForwardProbe* probe = nullptr, LossSums sums = {});
  // The same forward pass and sums, without gradients and without their memory. Of the weights only
  // whether mtp is 0 counts.
  LossSums losses(device::ExecContext& ctx, std::span<const Sample> samples,
                  const LossWeights& weights, model::TrainingTerms* terms = nullptr,
                  model::ForwardProbe* probe = nullptr, LossSums sums = {});
  // Another loss of the main head's logits instead of the cross entropy; the MTP block does not
  // run.
  void add_gradients(device::ExecContext& ctx, std::span<const Sample> samples, LogitsLoss& loss,
                     model::TrainingTerms* terms = nullptr, model::ForwardProbe* probe = nullptr);
  // The experts that every layer's router, the MTP block's too, gives the samples' tokens; no
  // logits are computed.
  model::Choices choose_experts(device::ExecContext& ctx, std::span<const Sample> samples,
                                bool dense_attention);
  // Of the token after `tokens`, which are not none: [vocab_size].
  std::vector<float> last_logits(device::ExecContext& ctx, std::span<const int32_t> tokens,
                                 bool dense_attention);

  // Activations and their gradients of the last add_gradients(), all tapes together; without the
  // step arena's scratch and integers.
  const autograd::TapeMemory& memory() const { return memory_; }
  // Where they lie: its address space and memory are kept from call to call.
  const device::PagedArena& activations() const { return activations_; }

 private:
  struct BoundMatrix {
    Parameter* parameter;
    int64_t first_row;
    ops::PackedWeight* packed;
    ops::PackedWeight transposed;
  };
  struct BoundVector {
    Parameter* parameter;
    std::vector<float>* values;
  };

  TrainingModel(model::Transformer transformer, ParameterStore& parameters,
                TrainingPrecision precision)
      : transformer_(std::move(transformer)), parameters_(parameters), precision_(precision) {}
  Status bind();
  void bind(autograd::Tape& tape, std::vector<float> Parameter::*shared_grad);
  using Batches = std::vector<std::unique_ptr<SampleBatch>>;
  // Runs pass(context with a tape) and that tape backward.
  template <typename Pass>
  void run_recorded(device::ExecContext& ctx, Pass&& pass);
  struct Forward {
    const float* streams;
    std::vector<int32_t> labels;
  };
  Forward forward(autograd::Context ctx, std::span<const Sample> samples,
                  model::TrainingTerms* terms, model::ForwardProbe* probe, Batches& batches);
  LossSums run(autograd::Context ctx, std::span<const Sample> samples, const LossWeights& weights,
               model::TrainingTerms* terms, model::ForwardProbe* probe, Batches& batches,
               LossSums sums);
  void mtp_loss(autograd::Context main, std::span<const Sample> samples, const float* streams,
                float weight, model::TrainingTerms* terms, model::ForwardProbe* probe,
                Batches& batches, LossSums& sums);

  static constexpr int64_t kMainHead = -1;  // or the MTP block of this depth
  void logits_loss(autograd::Context ctx, int64_t head, const float* streams,
                   std::span<const int32_t> labels, const model::TrainingTerms* terms,
                   LogitsLoss& loss);
  void run_backward(autograd::Tape& tape);

  model::Transformer transformer_;
  ParameterStore& parameters_;
  device::PagedArena activations_;
  autograd::TapeMemory memory_;
  TrainingPrecision precision_;
  formats::RecastCounts recast_;
  std::vector<BoundMatrix> matrices_;
  std::vector<BoundVector> vectors_;
};

}  // namespace cachalot::train
