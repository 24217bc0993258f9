// Outliers of experts where training is driven to them, AdamW at a learning rate far too high, with
// and without the clamp.
// Source  reference/training 7.2, A7.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/elementwise_grad.h"
#include "autograd/loss_grad.h"
#include "model/moe.h"
#include "ops/optim/adamw.h"
#include "ops/optim/grad_norm.h"
#include "train/spike_detector.h"
#include "trainer_testing.h"
#include "verify/reference64.h"

namespace cachalot::train {
namespace {

double largest_activation(double limit) {
  constexpr int64_t kSteps = 60;
  RunConfig config;
  config.total_tokens = kSteps * config.packs_per_step * kSequence;
  config.learning_rate = 0.1;
  config.trainer.optimizer.grouping.muon = false;
  config.change = [&](formats::ModelConfig& model) { model.swiglu_limit = limit; };
  TestRun run(config);
  run.losses(kSteps);
  std::vector<int32_t> tokens(static_cast<size_t>(kSequence));
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i % 32);
  return verify::run_reference64(run.config(), run.trainer().parameters(), tokens, false)
      .value()
      .max_expert_activation;
}

// The largest activation is silu(10) * 10.
TEST(Outliers, TheClampBoundsActivationsThatGoFarBeyondItWithoutIt) {
  EXPECT_LE(largest_activation(10), 99.9955);
  EXPECT_GT(largest_activation(0), 1000);
}

// y = x + ffn(x), the model's own experts; the label of x is its largest projection on fixed
// directions. The features of x have Student's t distribution with 3 degrees of freedom, so that
// outliers arise in every run and no norm takes them away.
class ToyMoe {
 public:
  static constexpr int64_t kRows = 64, kWidth = 16, kClasses = 8;

  ToyMoe(uint64_t seed, double limit)
      : weights_rng_(seed, RngPurpose::weights, 0), data_rng_(seed, RngPurpose::data, 0) {
    config_.hidden_size = kWidth;
    config_.moe_intermediate_size = 32;
    config_.n_routed_experts = 4;
    config_.num_experts_per_tok = 2;
    config_.swiglu_limit = limit;
    add(ffn_.gate.emplace(), config_.n_routed_experts, kWidth);
    ffn_.bias.assign(static_cast<size_t>(config_.n_routed_experts), 0.0f);
    ffn_.experts.resize(static_cast<size_t>(config_.n_routed_experts));
    for (model::ExpertWeights& expert : ffn_.experts) add_expert(expert);
    add_expert(ffn_.shared_experts);
    add(head_, kClasses, kWidth);
    directions_.resize(kClasses * kWidth);
    for (float& v : directions_) v = static_cast<float>(data_rng_.next_normal());
  }

  // The steps that the trainer's detector tells for spikes.
  int64_t spikes(int64_t steps, double learning_rate) {
    SpikeDetector detector({});
    int64_t count = 0;
    for (int64_t step = 1; step <= steps; ++step) {
      const auto [loss, grad_norm] = train(step, learning_rate);
      if (!detector.add(loss, grad_norm).empty()) ++count;
    }
    return count;
  }

 private:
  struct Trained {
    ops::PackedWeight* weight;
    int64_t rows, columns;
    std::vector<float> master, grad, m, v;
    ops::PackedWeight transposed;
  };

  void add(ops::PackedWeight& weight, int64_t rows, int64_t columns) {
    const std::vector<float> zeros(static_cast<size_t>(rows * columns));
    Trained& t =
        trained_.emplace_back(Trained{&weight, rows, columns, zeros, zeros, zeros, zeros, {}});
    for (float& w : t.master)
      w = static_cast<float>(weights_rng_.next_normal() / std::sqrt(static_cast<double>(columns)));
  }
  void add_expert(model::ExpertWeights& expert) {
    add(expert.w1, config_.moe_intermediate_size, kWidth);
    add(expert.w3, config_.moe_intermediate_size, kWidth);
    add(expert.w2, kWidth, config_.moe_intermediate_size);
  }

  double students_t() {
    double squares = 0;
    for (int i = 0; i < 3; ++i) {
      const double normal = data_rng_.next_normal();
      squares += normal * normal;
    }
    return data_rng_.next_normal() / std::sqrt(squares / 3);
  }
  int32_t label(const float* x) const {
    std::vector<float> projections;
    for (int64_t c = 0; c < kClasses; ++c)
      projections.push_back(
          std::inner_product(x, x + kWidth, directions_.data() + c * kWidth, 0.0f));
    return static_cast<int32_t>(std::ranges::max_element(projections) - projections.begin());
  }

  SpikeDetector::Point train(int64_t step_number, double learning_rate) {
    device::ArenaScope scope(arena_);
    autograd::Tape tape(memory_, ctx_);
    std::vector<std::span<const float>> grads;
    for (Trained& t : trained_) {
      std::ranges::fill(t.grad, 0.0f);
      t.weight->assign(ctx_, ops::WeightFormat::f32,
                       {t.master.data(), t.rows, t.columns, t.columns});
      t.transposed.assign_transposed(ctx_, ops::WeightFormat::f32,
                                     {t.master.data(), t.rows, t.columns, t.columns});
      tape.add_matrix(t.weight, {t.grad.data(), t.columns, &t.transposed});
      grads.emplace_back(t.grad);
    }
    const model::Precision precision = model::Precision::exact();
    const std::vector<float> no_frequencies;
    model::Step step{.exec = ctx_,
                     .config = config_,
                     .precision = precision,
                     .batch = {},
                     .probe = nullptr,
                     .tape = &tape,
                     .terms = nullptr,
                     .rows = kRows,
                     .plain_frequencies = no_frequencies,
                     .compressed_frequencies = no_frequencies,
                     .plain_rope = {},
                     .compressed_rope = {},
                     .selections = {},
                     .kv_rows = {}};
    const model::Matrix x = model::new_matrix(step, kRows, kWidth);
    std::vector<int32_t> labels;
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t i = 0; i < kWidth; ++i)
        x.data[row * kWidth + i] = static_cast<float>(students_t());
      labels.push_back(label(x.data + row * kWidth));
    }
    const model::Matrix y = model::ffn(step, 0, ffn_, {x}, false).y;
    autograd::add(step.context(), y.data, x.data, kRows * kWidth, false);
    const model::Matrix logits = model::linear_f32(step, y, kRows, head_);
    const double loss = autograd::cross_entropy(step.context(), logits.data, labels, {}, kClasses,
                                                1.0f / kRows, 0) /
                        kRows;
    tape.backward();
    const double grad_norm = ops::global_norm(ctx_, grads);
    for (Trained& t : trained_) {
      ops::adamw(ctx_, {.n = t.rows * t.columns,
                        .g = t.grad.data(),
                        .w = t.master.data(),
                        .m = t.m.data(),
                        .v = t.v.data(),
                        .step = step_number,
                        .learning_rate = learning_rate});
    }
    return {loss, grad_norm};
  }

  RngStream weights_rng_, data_rng_;
  formats::ModelConfig config_;
  model::FfnWeights ffn_;
  ops::PackedWeight head_;
  std::vector<float> directions_;
  std::vector<Trained> trained_;
  ThreadPool pool_{1};
  device::Arena arena_;
  device::PagedArena memory_;
  device::ExecContext ctx_{&pool_, &arena_, device::machine_isa()};
};

TEST(Outliers, TheClampLowersTheNumberOfSpikes) {
  for (const double learning_rate : {0.03, 0.1}) {
    int64_t clamped = 0, unclamped = 0;
    for (uint64_t seed = 1; seed <= 6; ++seed) {
      clamped += ToyMoe(seed, 10).spikes(400, learning_rate);
      unclamped += ToyMoe(seed, 0).spikes(400, learning_rate);
    }
    std::printf("rate %g: %ld spikes clamped, %ld not\n", learning_rate, clamped, unclamped);
    EXPECT_LT(clamped, unclamped);
  }
}

}  // namespace
}  // namespace cachalot::train
