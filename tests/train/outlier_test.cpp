// Outliers of experts where training is driven to them: AdamW at a learning rate far too high.
#include <gtest/gtest.h>

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

// training.md A7's first half: the largest activation is silu(10) * 10. Its second, fewer spikes, was not seen (docs/ablations.md).
TEST(Outliers, TheClampBoundsActivationsThatGoFarBeyondItWithoutIt) {
  EXPECT_LE(largest_activation(10), 99.9955);
  EXPECT_GT(largest_activation(0), 1000);
}

}  // namespace
}  // namespace cachalot::train
