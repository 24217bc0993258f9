#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>

namespace cachalot::optim {
namespace {

constexpr int64_t kBudget = 1'000'000;

TrainingSchedule small_schedule() {
  TrainingSchedule s;
  s.learning_rate = learning_rate_for_budget(2.7e-4, kBudget);
  s.batch = {.first_batch_tokens = 1024,
             .batch_tokens = 8192,
             .ramp_tokens = 100'000,
             .total_tokens = kBudget};
  s.sequence = {{0, 256}, {500'000, 1024}};
  s.attention = {.dense_tokens = 500'000, .indexer_warmup_tokens = 20'000};
  return s;
}

// reference/training S1.
TEST(Schedule, LearningRateIsTheClosedFormAndTheMtpWeightFlipsAtDecayStart) {
  const LearningRateSchedule s = learning_rate_for_budget(2.7e-4, kBudget);
  EXPECT_EQ(s.decay_begin_tokens, 680'000);
  EXPECT_EQ(s.decay_end_tokens, 970'000);
  EXPECT_EQ(learning_rate(s, 0, 0), 0);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1, 100), 2.7e-4 / 2000);
  EXPECT_DOUBLE_EQ(learning_rate(s, 1999, 5000), 2.7e-4 * 1999 / 2000);
  EXPECT_EQ(learning_rate(s, 2000, 5000), 2.7e-4);
  EXPECT_EQ(learning_rate(s, 9000, 500'000), 2.7e-4);
  EXPECT_EQ(learning_rate(s, 9000, 680'000), 2.7e-4);
  EXPECT_LT(learning_rate(s, 9000, 690'000), 2.7e-4);
  EXPECT_DOUBLE_EQ(learning_rate(s, 9000, 825'000), 2.7e-4 * 0.55);  // midpoint of 1 and 0.1
  EXPECT_DOUBLE_EQ(learning_rate(s, 9000, 680'000 + 290'000 / 4),
                   2.7e-4 * (0.1 + 0.9 * (1 + std::sqrt(0.5)) / 2));
  EXPECT_DOUBLE_EQ(learning_rate(s, 9000, 970'000), 2.7e-5);
  EXPECT_DOUBLE_EQ(learning_rate(s, 9000, kBudget), 2.7e-5);
  for (int64_t t = 680'000; t < 970'000; t += 1000)
    EXPECT_GE(learning_rate(s, 9000, t), learning_rate(s, 9000, t + 1000)) << t;

  EXPECT_EQ(mtp_loss_weight({}, s, 0), 0.3);
  EXPECT_EQ(mtp_loss_weight({}, s, 679'999), 0.3);
  EXPECT_EQ(mtp_loss_weight({}, s, 680'000), 0.1);
  EXPECT_EQ(mtp_loss_weight({}, s, kBudget), 0.1);
}

TEST(Schedule, WithoutDecayOrWarmUpTheRateIsConstant) {
  const LearningRateSchedule s{.peak = 1e-3, .warmup_steps = 0};
  EXPECT_EQ(learning_rate(s, 0, 0), 1e-3);
  EXPECT_EQ(learning_rate(s, 1'000'000, int64_t{1} << 60), 1e-3);
  EXPECT_EQ(mtp_loss_weight({}, s, int64_t{1} << 60), 0.3);
  // A decay of no length is a step.
  const LearningRateSchedule step{
      .peak = 1, .warmup_steps = 0, .decay_begin_tokens = 10, .decay_end_tokens = 10};
  EXPECT_EQ(learning_rate(step, 0, 9), 1);
  EXPECT_DOUBLE_EQ(learning_rate(step, 0, 10), 0.1);
}

// reference/training S2.
TEST(Schedule, StepsFollowTheRampAndSpendTheBudgetToTheToken) {
  TrainingSchedule s = small_schedule();
  s.batch.total_tokens = kBudget + 7;
  int64_t seen = 0, step = 0, before = 0;
  while (true) {
    const TrainingPoint point = training_point(s, step, seen);
    if (point.step_tokens == 0) break;
    // The ramp in whole numbers, here small enough not to overflow.
    const int64_t ramp = seen < 100'000 ? 1024 + 7168 * seen / 100'000 : 8192;
    const int64_t length = seen < 500'000 ? 256 : 1024;
    EXPECT_EQ(point.sequence_length, length);
    EXPECT_EQ(point.step_tokens, std::min(ramp / length * length, kBudget + 7 - seen)) << seen;
    EXPECT_TRUE(point.step_tokens >= before || point.step_tokens + seen >= kBudget) << seen;
    before = point.step_tokens;
    seen += point.step_tokens;
    ++step;
  }
  EXPECT_EQ(seen, kBudget + 7);
  EXPECT_EQ(training_point(s, step, seen + 1000).step_tokens, 0);
  // A batch below a sequence is one sequence.
  EXPECT_EQ(step_tokens({100, 100, 0, kBudget}, 256, 0), 256);
  // The reference's batch is a whole number of sequences at every length.
  const BatchSchedule flash{.total_tokens = int64_t{1} << 45};
  EXPECT_EQ(step_tokens(flash, 4096, 0), 75'497'472);
  EXPECT_EQ(step_tokens(flash, 65536, 0), 1152 * 65536);
  EXPECT_EQ(step_tokens(flash, 1048576, 0), 72 * 1048576);
}

TEST(Schedule, StagesSwitchAtTheirTokens) {
  const TrainingSchedule s = small_schedule();
  EXPECT_EQ(sequence_length(s.sequence, 499'999), 256);
  EXPECT_EQ(sequence_length(s.sequence, 500'000), 1024);
  EXPECT_EQ(attention_stage(s.attention, 0), AttentionStage::dense);
  EXPECT_EQ(attention_stage(s.attention, 499'999), AttentionStage::dense);
  EXPECT_EQ(attention_stage(s.attention, 500'000), AttentionStage::indexer_warmup);
  EXPECT_EQ(attention_stage(s.attention, 519'999), AttentionStage::indexer_warmup);
  EXPECT_EQ(attention_stage(s.attention, 520'000), AttentionStage::sparse);
  EXPECT_EQ(training_point(s, 5000, 510'000).learning_rate, 1e-3);
  EXPECT_EQ(training_point(s, 5000, 520'000).learning_rate, 2.7e-4);
  EXPECT_EQ(attention_stage({}, 0), AttentionStage::sparse);
  const int64_t never = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(attention_stage({.dense_tokens = never, .indexer_warmup_tokens = never}, 1 << 20),
            AttentionStage::dense);
}

TEST(Schedule, ValidationNamesKeyExpectedAndFound) {
  EXPECT_TRUE(validate(small_schedule()).ok());
  const auto message = [](const std::function<void(TrainingSchedule&)>& change) {
    TrainingSchedule s = small_schedule();
    change(s);
    return validate(s).message();
  };
  EXPECT_EQ(message([](auto& s) { s.learning_rate.peak = -1; }),
            "learning_rate.peak: expected a number from 0 on, found -1");
  EXPECT_EQ(message([](auto& s) { s.learning_rate.warmup_steps = -2; }),
            "learning_rate.warmup_steps: expected 0 or more steps, found -2");
  EXPECT_EQ(message([](auto& s) { s.learning_rate.decay_end_tokens = 5; }),
            "learning_rate.decay_end_tokens: expected at least decay_begin_tokens = 680000, "
            "found 5");
  EXPECT_EQ(message([](auto& s) { s.learning_rate.floor_fraction = NAN; }),
            "learning_rate.floor_fraction: expected 0 to 1, found nan");
  EXPECT_EQ(message([](auto& s) { s.mtp.from_decay = -0.1; }),
            "mtp.from_decay: expected a number from 0 on, found -0.1");
  EXPECT_EQ(message([](auto& s) { s.sequence.clear(); }),
            "sequence: expected at least one stage, found none");
  EXPECT_EQ(message([](auto& s) { s.sequence[0].from_tokens = 3; }),
            "sequence.0.from_tokens: expected 0 in the first stage, found 3");
  EXPECT_EQ(message([](auto& s) { s.sequence[1].from_tokens = 0; }),
            "sequence.1.from_tokens: expected more than the stage before, 0, found 0");
  EXPECT_EQ(message([](auto& s) { s.sequence[1].sequence_length = 0; }),
            "sequence.1.sequence_length: expected 1 or more tokens, found 0");
  EXPECT_EQ(message([](auto& s) { s.sequence[1].sequence_length = 3000; }),
            "batch.batch_tokens: expected whole sequences of 3000 tokens, found 8192");
  EXPECT_EQ(message([](auto& s) { s.batch.first_batch_tokens = 9000; }),
            "batch.batch_tokens: expected at least first_batch_tokens = 9000, found 8192");
  EXPECT_EQ(message([](auto& s) { s.batch.ramp_tokens = -1; }),
            "batch.ramp_tokens: expected 0 or more tokens, found -1");
  EXPECT_EQ(message([](auto& s) { s.attention.indexer_warmup_tokens = -1; }),
            "attention.indexer_warmup_tokens: expected 0 or more tokens, found -1");
}

}  // namespace
}  // namespace cachalot::optim
