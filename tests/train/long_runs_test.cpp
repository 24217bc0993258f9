// What shows only over many steps of a small model's training.
#include <gtest/gtest.h>

#include "trainer_testing.h"

namespace cachalot::train {
namespace {

// Everything that moves in training: dense attention, the indexer's warm-up, selection, routing
// biases.
TEST(LongRuns, AThousandStepsRepeatTheirBitsWithAnyThreads) {
  constexpr int64_t kSteps = 1000;
  RunConfig config;
  config.packs_per_call = config.packs_per_step = 1;
  config.total_tokens = kSteps * kSequence;
  config.attention = {200 * kSequence, 100 * kSequence, 1e-3};
  RunConfig single = config;
  single.threads = 1;
  TestRun one(config), again(config), other(single);
  for (int64_t i = 0; i < kSteps; ++i) {
    const StepResult a = one.step(), b = again.step(), c = other.step();
    ASSERT_EQ(a.lm_loss, b.lm_loss) << "step " << i;
    ASSERT_EQ(a.lm_loss, c.lm_loss) << "step " << i;
    ASSERT_EQ(a.indexer_kl, c.indexer_kl) << "step " << i;
    ASSERT_EQ(a.optimizer.grad_norm, c.optimizer.grad_norm) << "step " << i;
  }
  EXPECT_TRUE(one.state() == again.state());
  EXPECT_TRUE(one.state() == other.state());
}

}  // namespace
}  // namespace cachalot::train
