// A training run's step: what its bits may depend on, its stages, its budget, and routing by stale
// choices.
#include "train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "autograd/loss_grad.h"
#include "trainer_testing.h"

namespace cachalot::train {
namespace {

TEST(Trainer, LossFalls) {
  TestRun run;
  const std::vector<double> losses = run.losses(12);
  // Only 32 of the 128 ids occur, at ln 32 = 3.47 nats each where nothing else is known.
  EXPECT_NEAR(losses.front(), std::log(128.0), 0.1);
  EXPECT_LT(losses.back(), 3.4);
}

TEST(Trainer, BitsDependOnNeitherThreadsNorMicroBatches) {
  TestRun one, other({.threads = 1, .packs_per_call = 1});
  EXPECT_EQ(one.losses(4), other.losses(4));
  EXPECT_TRUE(one.state() == other.state());
}

TEST(Trainer, GoesOnFromASavedStateAsIfUndisturbed) {
  RunConfig config;
  config.attention = {3 * 4 * kSequence, 2 * 4 * kSequence, 1e-3};
  config.sequence = {{0, kSequence}, {4 * 4 * kSequence, 2 * kSequence}};
  TestRun undisturbed(config);
  undisturbed.losses(2);
  // Every stage's switch, of attention and of length, lies behind one of the places where the run
  // is broken off.
  for (int64_t saved = 2; saved < 7; ++saved) {
    TestRun resumed(config);
    resumed.set_state(undisturbed.state());
    ASSERT_TRUE(resumed.trainer().restore(undisturbed.trainer().position(), 0, {}).ok());
    const double next = undisturbed.step().lm_loss;
    EXPECT_EQ(next, resumed.step().lm_loss);
    EXPECT_TRUE(undisturbed.state() == resumed.state()) << "after step " << saved;
  }
}

// The cross entropy as a loss of the caller's.
class MeanCrossEntropy : public LogitsLoss {
 public:
  explicit MeanCrossEntropy(int64_t num_targets) : weight_(1 / static_cast<float>(num_targets)) {}
  void add(autograd::Context ctx, const Lot& lot) override {
    sum_ = autograd::cross_entropy(ctx, lot.logits, lot.labels, {}, lot.vocab_size, weight_, sum_);
  }

 private:
  float weight_;
  double sum_ = 0;
};

TEST(Trainer, AnUpdateIsTheStepOnTheSameSamplesAndLoss) {
  RunConfig config;
  config.change = [](formats::ModelConfig& model) {
    model.num_nextn_predict_layers = 0;
    model.compress_ratios = {0, 4, 8, 4};
  };
  TestRun by_stream(config), by_update(config);
  for (int step = 0; step < 3; ++step) {
    const StreamPosition position = by_stream.trainer().position();
    std::optional<StepInput> input = by_stream.stream().read(position, nullptr).value();
    std::vector<MeanCrossEntropy> losses;
    for (int64_t i = 0; i < input->batch.num_micro_batches(); ++i)
      losses.emplace_back(input->batch.lm_targets());
    Update update{input->point.learning_rate, {}};
    for (int64_t i = 0; i < input->batch.num_micro_batches(); ++i)
      update.micro_batches.push_back({input->batch.micro_batch(i), &losses[i]});
    const StepResult expected = by_stream.step();
    const StepResult found = by_update.trainer().update(update).value();
    EXPECT_TRUE(by_stream.state() == by_update.state()) << "step " << step;
    EXPECT_EQ(found.step, expected.step);
    EXPECT_EQ(found.num_targets, expected.num_targets);
    EXPECT_EQ(found.optimizer.grad_norm, expected.optimizer.grad_norm);
    EXPECT_EQ(found.indexer_kl, expected.indexer_kl);
  }
}

// Routers that know nothing give every expert the same affinity: then the loss of a sample is alpha
// in every layer, whatever is chosen (reference/training 6.6), and so is its mean over samples of
// any number and length, and over any cut into calls.
TEST(Trainer, TheBalanceLossOfTheLogIsTheMeanOverSamples) {
  for (const int64_t packs_per_call : {1, 4}) {
    RunConfig config;
    config.init_std = 0;
    config.packs_per_call = packs_per_call;
    config.trainer.balance_alpha = 0.25f;
    TestRun run(config);
    // Of four layers, of which the first takes its experts by token id, and of the MTP block.
    constexpr double kRouters = 4;
    const StepResult first = run.step();
    EXPECT_NEAR(first.balance_loss, kRouters * 0.25, kRouters * 0.25 * 1e-5) << packs_per_call;
  }
}

TEST(Trainer, MeetsItsBudgetToTheToken) {
  RunConfig config;
  config.total_tokens = 2 * 4 * kSequence + 100;
  TestRun run(config);
  EXPECT_EQ(run.step().tokens_seen, 4 * kSequence);
  EXPECT_EQ(run.step().tokens_seen, 8 * kSequence);
  const StepResult last = run.step();
  EXPECT_EQ(last.tokens_seen, config.total_tokens);
  EXPECT_LE(last.num_tokens, 100);
  EXPECT_FALSE(run.trainer().step().value().has_value());
}

TEST(Trainer, WarmUpTrainsTheIndexerAlone) {
  RunConfig config;
  config.attention = {2 * 4 * kSequence, 20 * 4 * kSequence, 3e-3};
  config.total_tokens = 22 * 4 * kSequence;
  TestRun run(config);
  run.losses(2);
  std::map<std::string, std::vector<float>> before;
  for (const Parameter& p : run.trainer().parameters().parameters()) before[p.info.name] = p.master;
  double first_kl = 0, last_kl = 0;
  for (int64_t i = 0; i < 20; ++i) {
    const StepResult result = run.step();
    EXPECT_EQ(result.point.attention, optim::AttentionStage::indexer_warmup);
    (i < 5 ? first_kl : last_kl) += i < 5 || i >= 15 ? result.indexer_kl / 5 : 0;
  }
  EXPECT_LT(last_kl, first_kl);
  int64_t moved = 0;
  for (const Parameter& p : run.trainer().parameters().parameters()) {
    const bool same = p.master == before[p.info.name];
    if (optim::is_indexer_parameter(p.info.name)) {
      moved += same ? 0 : 1;
    } else {
      EXPECT_TRUE(same) << p.info.name;
    }
  }
  EXPECT_GT(moved, 0);
}

TEST(Trainer, ADenseStageLeavesTheIndexerAlone) {
  RunConfig config;
  config.attention = {1000 * kSequence, 0, 1e-3};
  TestRun run(config);
  std::map<std::string, std::vector<float>> before;
  for (const Parameter& p : run.trainer().parameters().parameters()) before[p.info.name] = p.master;
  run.losses(2);
  for (const Parameter& p : run.trainer().parameters().parameters()) {
    if (optim::is_indexer_parameter(p.info.name)) {
      EXPECT_TRUE(p.master == before[p.info.name]) << p.info.name;
    }
  }
}

// reference/training 6.5: too busy an expert's bias falls, an idle one's rises, by the same step.
// The rate is below what the scores of this young model differ by, and loads are added over half
// the run: at 0.05 the choices swing, and a single step's load can be either way.
TEST(Trainer, RoutingBiasesEvenTheLoads) {
  constexpr int64_t kSteps = 12;
  const auto load_of_second_half = [](float rate, float* moved) {
    RunConfig config;
    config.trainer.bias_update_rate = rate;
    config.trainer.balance_alpha = 0;
    TestRun run(config);
    double load = 0;
    for (int64_t i = 0; i < kSteps; ++i) {
      const double of_step = run.step().max_load;
      load += i >= kSteps / 2 ? of_step : 0;
    }
    for (const Parameter& p : run.trainer().parameters().parameters()) {
      if (!p.info.name.ends_with("gate.bias")) continue;
      for (const float bias : p.master) *moved = std::max(*moved, std::abs(bias));
    }
    return load;
  };
  float still = 0, moved = 0;
  const double without = load_of_second_half(0, &still), with = load_of_second_half(0.003f, &moved);
  EXPECT_EQ(still, 0);
  EXPECT_GT(moved, 0);
  EXPECT_LT(with, without);
}

// reference/training A1: choices of the same parameters change nothing.
TEST(Anticipation, WithoutDelayIsTheNormalStep) {
  RunConfig config;
  config.trainer.anticipation_delta_steps = 0;
  config.packs_per_call = 1;  // each micro-batch has choices of its own
  TestRun normal(config), anticipating(config);
  normal.losses(2);
  anticipating.losses(2);
  anticipating.trainer().anticipate(2);
  for (int64_t i = 0; i < 2; ++i) {
    const StepResult result = anticipating.step();
    EXPECT_TRUE(result.anticipated);
    EXPECT_EQ(result.lm_loss, normal.step().lm_loss);
  }
  EXPECT_TRUE(normal.state() == anticipating.state());
  EXPECT_FALSE(anticipating.trainer().anticipation().active());
}

// A2: the choices of step t are those of a forward pass that starts from the parameters of step t -
// delta.
TEST(Anticipation, UsesTheChoicesOfEarlierParameters) {
  constexpr int64_t kDelta = 2;
  RunConfig config;
  config.trainer.anticipation_delta_steps = kDelta;
  TestRun run(config);
  run.losses(1);
  run.trainer().anticipate(6);
  std::map<int64_t, StepChoices> made;  // choices stay as they were made until their step
  for (int64_t i = 0; i < 5; ++i) {
    const StreamPosition position = run.trainer().position();
    const auto before = run.state();
    run.step();
    // After the step the choices for i + 1 ... i + delta remain; the last of them was made from
    // this step's parameters.
    const auto& ahead = run.trainer().anticipation().ahead();
    ASSERT_EQ(ahead.size(), static_cast<size_t>(kDelta));
    for (const auto& [at, choices] : ahead) {
      const auto before_step = made.find(at);
      if (before_step == made.end()) continue;
      for (size_t m = 0; m < choices.size(); ++m)
        EXPECT_EQ(choices[m].experts, before_step->second[m].experts) << "of step " << at;
    }
    made = ahead;
    // The first step of the mode chooses for itself and the delta steps after it.
    TestRun fresh(config);
    fresh.set_state(before);
    ASSERT_TRUE(fresh.trainer().restore(position, 0, {}).ok());
    fresh.trainer().anticipate(kDelta + 1);
    fresh.step();
    const int64_t step = position.step + kDelta;
    const StepChoices& expected = fresh.trainer().anticipation().ahead().at(step);
    const StepChoices& found = ahead.at(step);
    ASSERT_EQ(expected.size(), found.size());
    for (size_t m = 0; m < found.size(); ++m) EXPECT_EQ(expected[m].experts, found[m].experts);
  }
}

// Made-up choices, all of the same experts: only if the step follows them are these loaded with
// everything.
TEST(Anticipation, AStepRoutesByItsEarlierChoices) {
  RunConfig config;
  config.trainer.anticipation_delta_steps = 1;
  TestRun run(config);
  run.trainer().anticipate(2);
  run.step();
  std::map<int64_t, StepChoices> ahead = run.trainer().anticipation().ahead();
  const formats::ModelConfig model = small_config();
  for (auto& [step, choices] : ahead) {
    for (model::Choices& micro_batch : choices) {
      for (std::vector<int32_t>& ids : micro_batch.experts) {
        for (size_t i = 0; i < ids.size(); ++i)
          ids[i] = static_cast<int32_t>(i % static_cast<size_t>(model.num_experts_per_tok));
      }
    }
  }
  ASSERT_TRUE(run.trainer().restore(run.trainer().position(), 1, std::move(ahead)).ok());
  EXPECT_EQ(run.step().max_load, static_cast<double>(model.n_routed_experts) /
                                     static_cast<double>(model.num_experts_per_tok));
}

TEST(Anticipation, GoesOnFromASavedState) {
  RunConfig config;
  config.trainer.anticipation_delta_steps = 2;
  TestRun undisturbed(config);
  undisturbed.losses(1);
  undisturbed.trainer().anticipate(4);
  undisturbed.losses(2);
  TestRun resumed(config);
  resumed.set_state(undisturbed.state());
  const Anticipation& anticipation = undisturbed.trainer().anticipation();
  ASSERT_TRUE(resumed.trainer()
                  .restore(undisturbed.trainer().position(), anticipation.steps_left(),
                           anticipation.ahead())
                  .ok());
  EXPECT_EQ(undisturbed.losses(3), resumed.losses(3));
  EXPECT_TRUE(undisturbed.state() == resumed.state());
}

}  // namespace
}  // namespace cachalot::train
