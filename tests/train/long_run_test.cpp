// Runs of a thousand steps: what repeats to the bit, and which optimizer learns faster.
#include <gtest/gtest.h>

#include "test_run.h"

namespace cachalot::train {
namespace {

// infrastructure.md B4.
TEST(LongRun, AThousandStepsRepeatBitForBitOnAnyNumberOfThreads) {
  constexpr int64_t kSteps = 1000;
  RunConfig config;
  config.packs_per_step = 1;
  config.packs_per_call = 1;
  config.total_tokens = kSteps * kSequence;
  config.attention = {100 * kSequence, 50 * kSequence, 1e-3};
  RunConfig one_thread = config;
  one_thread.threads = 1;
  TestRun first(config), second(config), third(one_thread);
  const std::vector<double> losses = first.losses(kSteps);
  EXPECT_EQ(losses, second.losses(kSteps));
  EXPECT_EQ(losses, third.losses(kSteps));
  EXPECT_TRUE(first.state() == second.state());
  EXPECT_TRUE(first.state() == third.state());
}

// training.md M9: each at the best of the same learning rates, by the mean loss of its last steps.
TEST(LongRun, MuonReachesALossInFewerSteps) {
  constexpr int64_t kSteps = 150, kLast = 10;
  const auto run = [](bool muon, double rate) {
    RunConfig config;
    config.total_tokens = kSteps * config.packs_per_step * kSequence;
    config.learning_rate = rate;
    config.trainer.optimizer.grouping.muon = muon;
    return TestRun(config).losses(kSteps);
  };
  const auto end_of = [](const std::vector<double>& losses) {
    double sum = 0;
    for (size_t i = losses.size() - kLast; i < losses.size(); ++i) sum += losses[i] / kLast;
    return sum;
  };
  std::vector<double> best[2];
  for (const bool muon : {false, true}) {
    for (const double rate : {0.003, 0.01, 0.03}) {
      std::vector<double> losses = run(muon, rate);
      if (best[muon].empty() || end_of(losses) < end_of(best[muon])) best[muon] = std::move(losses);
    }
  }
  // Steps until the mean over kLast steps is what AdamW ends at.
  const double target = end_of(best[false]);
  size_t steps = kLast;
  while (steps < best[true].size() &&
         end_of({best[true].begin(), best[true].begin() + static_cast<ptrdiff_t>(steps)}) > target)
    ++steps;
  EXPECT_LT(steps, best[true].size())
      << "AdamW ends at " << target << ", Muon at " << end_of(best[true]);
  RecordProperty("steps_of_muon", static_cast<int>(steps));
}

}  // namespace
}  // namespace cachalot::train
