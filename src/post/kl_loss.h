// On-policy distillation as a loss of the model's logits: where a response token is predicted, the
// weighted sum of the reverse KL divergences to the sample's teachers over the whole
// vocabulary, from the teachers' cached final states and their heads.
// Source  reference/post-training 8.2, 9.2, 15; ops/loss/mixture_kl.h.
//         loss = sum over samples of scale * mean_t sum_k w_k KL(pi || q_k)
// Labels  of a call's samples: the response tokens, in the order of the rows, and no others.
// Memory  beside logits and their gradient, a stretch of a teacher's logits for the rows of a lot.
// Numerics  a sample's teachers are mixed in ascending order, whatever order its list has, so a
//         row's bits depend on the row alone.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/loss/mixture_kl.h"
#include "post/teacher_heads.h"
#include "tensor/tensor_view.h"
#include "train/logits_loss.h"

namespace cachalot::post {

struct TeacherShare {
  int32_t teacher = 0;
  double weight = 1;
  // [rows, hidden_size] f32 or bf16: the teacher's, before its head; of a file too
  tensor::TensorView states;
};

struct DistilledSample {
  int64_t rows = 0;  // its positions with a label
  std::vector<TeacherShare> teachers;
  double scale = 1;  // 1: sum over samples; 1 / samples of the mini-batch: their mean
};

// The order in which the samples of a mini-batch are run: by teachers, then by id, so that a head
// is loaded once, and that the order in which they came changes no sum. ids are distinct.
std::vector<int64_t> dispatch_order(std::span<const DistilledSample> samples,
                                    std::span<const int64_t> ids);
// The teachers of samples in the order in which their heads are used.
std::vector<int32_t> teachers_in_order(std::span<const DistilledSample> samples);

// What losses of distillation tell after the call.
class DivergenceLoss : public train::LogitsLoss {
 public:
  double loss() const { return loss_; }
  // Of each row, without scale: sum_k w_k KL, or what stands for it.
  const std::vector<double>& row_losses() const { return row_losses_; }

 protected:
  double loss_ = 0;
  std::vector<double> row_losses_;
};

// Borrows samples and heads. For one call of add_gradients() or forward_loss(). A head that cannot
// be read makes status() an error and the gradients those of nothing: no step may follow.
class KlLoss : public DivergenceLoss {
 public:
  KlLoss(std::span<const DistilledSample> samples, TeacherHeads& heads);

  void add(autograd::Context ctx, const Lot& lot) override;

  Status status() const override { return status_; }

 private:
  struct Row {
    const DistilledSample* sample;
    int64_t place;  // in the sample
  };
  Status mix(autograd::Context ctx, const Lot& lot, float* mixed, std::span<ops::MixtureLog> logs);

  std::vector<Row> rows_;
  TeacherHeads& heads_;
  Status status_;
};

// The estimator that KlLoss is the mean of: of the sampled token alone, with the coefficient
// log q(y) - log pi(y) held fixed. The baseline that needs no head.
// loss = - sum over samples of scale * mean_t (sum_k w_k (log q_k(y_t) - log pi(y_t))); a row's is
// the coefficient with the other sign.
class SampledKlLoss : public DivergenceLoss {
 public:
  struct Row {
    double teacher_logprob = 0;  // sum_k w_k log q_k(y)
    double weight = 1;           // sum_k w_k
    double scale = 1;            // the sample's over its rows
  };
  // Borrows the rows.
  explicit SampledKlLoss(std::span<const Row> rows) : rows_(rows) {}

  void add(autograd::Context ctx, const Lot& lot) override;

 private:
  std::span<const Row> rows_;
};

}  // namespace cachalot::post
