// The dry run: steps against a plain walk over the schedule.
#include "train/memory_plan.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/rng.h"
#include "train/training_flops.h"

namespace cachalot::train {
namespace {

struct Stretch {
  int64_t seen, step_tokens, sequence_length, steps;
};

// Whether a stage of another length begins between two steps, even if it ends there too.
bool is_cut(const optim::TrainingSchedule& schedule, const Stretch& stretch, int64_t seen) {
  return std::any_of(schedule.sequence.begin(), schedule.sequence.end(),
                     [&](const optim::SequenceStage& stage) {
                       return stage.from_tokens > stretch.seen && stage.from_tokens <= seen &&
                              stage.sequence_length != stretch.sequence_length;
                     });
}

// Step after step.
std::vector<Stretch> walk(const optim::TrainingSchedule& schedule) {
  std::vector<Stretch> out;
  int64_t seen = 0;
  for (int64_t step = 0;; ++step) {
    const optim::TrainingPoint point = optim::training_point(schedule, step, seen);
    if (point.step_tokens == 0) return out;
    if (out.empty() || out.back().step_tokens != point.step_tokens ||
        out.back().sequence_length != point.sequence_length || is_cut(schedule, out.back(), seen)) {
      out.push_back({seen, point.step_tokens, point.sequence_length, 0});
    }
    ++out.back().steps;
    seen += point.step_tokens;
  }
}

TrainConfig config_of(const optim::TrainingSchedule& schedule) {
  TrainConfig config;
  config.model.preset = "nano";
  config.schedule = schedule;
  return config;
}

void expect_the_walk(const optim::TrainingSchedule& schedule, const std::string& what) {
  ASSERT_TRUE(optim::validate(schedule).ok()) << what << optim::validate(schedule).message();
  const TrainConfig config = config_of(schedule);
  const formats::ModelConfig model = model_config(config).value();
  int64_t num_steps = 0, total_tokens = 0;
  double flops = 0;
  for (const Stretch& stretch : walk(schedule)) {
    EXPECT_EQ(equal_steps(schedule, stretch.seen), stretch.steps)
        << what << ", at " << stretch.seen << " tokens";
    num_steps += stretch.steps;
    const int64_t tokens = stretch.steps * stretch.step_tokens;
    total_tokens += tokens;
    flops += static_cast<double>(tokens) * training_flops_per_token(model, stretch.sequence_length);
  }
  const MemoryPlan plan = memory_plan(config).value();
  EXPECT_EQ(plan.num_steps, num_steps) << what;
  EXPECT_EQ(plan.total_tokens, total_tokens) << what;
  EXPECT_EQ(plan.total_tokens, schedule.batch.total_tokens) << what;
  EXPECT_NEAR(plan.flops, flops, 1e-12 * flops) << what;
}

TEST(MemoryPlan, CountsTheStepsOfEveryStretch) {
  optim::TrainingSchedule s;
  s.sequence = {{0, 64}};
  s.batch = {64, 256, 0, 0};
  expect_the_walk(s, "no budget");
  for (const int64_t total : {1, 255, 256, 257, 2560, 2561}) {
    s.batch.total_tokens = total;
    expect_the_walk(s, "one stage, budget " + std::to_string(total));
  }
  s.batch = {64, 4096, 100'000, 300'000};
  expect_the_walk(s, "ramp");
  s.batch.total_tokens = 60'000;
  expect_the_walk(s, "budget within the ramp");
  s.batch = {256, 256, 5000, 9999};
  expect_the_walk(s, "flat ramp");
  s.batch = {1, 256, 100'000, 200'000};
  expect_the_walk(s, "ramp that begins below one sequence");
  s.sequence = {{0, 64}, {1000, 128}, {1001, 64}, {5000, 64}, {9000, 256}};
  s.batch = {256, 256, 0, 20'000};
  expect_the_walk(s, "stages");

  RngStream rng(11, RngPurpose::data, 0);
  const auto below = [&](int64_t bound) {
    return static_cast<int64_t>(rng.next_u32() % static_cast<uint32_t>(bound));
  };
  for (int i = 0; i < 200; ++i) {
    s.sequence = {{0, int64_t{1} << below(7)}};
    while (below(3) > 0) {
      s.sequence.push_back(
          {s.sequence.back().from_tokens + 1 + below(20'000), int64_t{1} << below(7)});
    }
    s.batch.batch_tokens = 64 * (1 + below(40));
    s.batch.first_batch_tokens = 1 + below(s.batch.batch_tokens);
    s.batch.ramp_tokens = below(2) * below(100'000);
    s.batch.total_tokens = below(200'000);
    expect_the_walk(s, "random schedule " + std::to_string(i));
  }
}

TEST(MemoryPlan, RecomputeAndWholePacksCount) {
  TrainConfig config = config_of({});
  config.schedule.sequence = {{0, 512}, {8192, 1024}};
  config.schedule.batch = {4096, 4096, 0, 16'384};
  config.micro_batch_tokens = 1500;  // two packs, then one
  config.recompute.logit_rows = 16;
  const MemoryPlan kept = memory_plan(config).value();
  EXPECT_EQ(kept.micro_batch_tokens, 1024);
  EXPECT_EQ(kept.pass.made_again, 0);
  config.recompute.tensors = "all";
  const MemoryPlan made_again = memory_plan(config).value();
  EXPECT_GT(made_again.pass.made_again, 0);
  EXPECT_LT(made_again.pass.kept, 0.8 * kept.pass.kept);
  EXPECT_EQ(kept.total_bytes() - made_again.total_bytes(),
            kept.pass.total() - made_again.pass.total());
  EXPECT_NE(made_again.to_text(100).find("made again"), std::string::npos);
  MemoryPlan an_hour = kept;
  an_hour.flops = 3600 * 0.3 * 100e9;
  EXPECT_NE(an_hour.to_text(100).find("1 h at 30 % of 100 GFLOP/s"), std::string::npos);
  config.micro_batch_tokens = 700;
  EXPECT_EQ(memory_plan(config).value().micro_batch_tokens, 1024);
  config.micro_batch_tokens = 1 << 20;  // no more than a step's
  EXPECT_EQ(memory_plan(config).value().micro_batch_tokens, 4096);
}

// The published run's ramp, and the longest that the configuration takes.
TEST(MemoryPlan, LongRampsTakeNoTime) {
  optim::TrainingSchedule s;
  s.batch.ramp_tokens = 469'000'000'000;
  s.batch.total_tokens = 33'000'000'000'000;
  MemoryPlan plan = memory_plan(config_of(s)).value();
  EXPECT_EQ(plan.total_tokens, s.batch.total_tokens);
  EXPECT_GT(plan.num_steps, s.batch.total_tokens / s.batch.batch_tokens);
  s.sequence = {{0, 1}};
  s.batch = {1, 1 << 20, int64_t{1} << 50, int64_t{1} << 50};
  plan = memory_plan(config_of(s)).value();
  EXPECT_EQ(plan.total_tokens, s.batch.total_tokens);
  s.batch.batch_tokens = int64_t{1} << 30;
  EXPECT_NE(optim::validate(s).message().find("ramp_tokens"), std::string::npos);
}

}  // namespace
}  // namespace cachalot::train
