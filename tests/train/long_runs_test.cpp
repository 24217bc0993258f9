// What shows only over many steps of a small model's training.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "trainer_testing.h"
#include "verify/reference64.h"

namespace cachalot::train {
namespace {

RunConfig run_of(int64_t steps, int64_t packs_per_step = 1) {
  RunConfig config;
  config.packs_per_call = packs_per_step;
  config.packs_per_step = packs_per_step;
  config.total_tokens = steps * packs_per_step * kSequence;
  return config;
}

// Everything that moves in training: dense attention, the indexer's warm-up, selection, routing biases.
TEST(LongRuns, AThousandStepsRepeatTheirBitsWithAnyThreads) {
  constexpr int64_t kSteps = 1000;
  RunConfig config = run_of(kSteps);
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

// Most tokens follow from the two before, by a table of 16 x 16: more than embedding and head can know.
std::vector<std::vector<int32_t>> texts(int64_t count, uint64_t seed) {
  RngStream rng(seed, RngPurpose::data, 0);
  std::vector<std::vector<int32_t>> all;
  for (int64_t d = 0; d < count; ++d) {
    auto& ids = all.emplace_back();
    uint32_t last = 0, before = 0;
    for (uint32_t left = 3 + rng.next_u32() % 200; left > 0; --left) {
      const uint32_t next =
          (rng.next_u32() % 8 == 0 ? rng.next_u32() : (last * 16 + before) * 2654435761u >> 11) %
          16;
      before = std::exchange(last, next);
      ids.push_back(static_cast<int32_t>(next));
    }
  }
  return all;
}

RunConfig run_of_texts(int64_t steps, double learning_rate) {
  RunConfig config = run_of(steps, 2);
  config.text = std::make_shared<data::MemorySource>(texts(400, 5));
  config.learning_rate = learning_rate;
  return config;
}

double validation_loss(TestRun& run, const std::vector<std::vector<int32_t>>& held_out) {
  std::vector<std::vector<int32_t>> labels;
  for (const auto& ids : held_out) {
    auto& next = labels.emplace_back(ids.begin() + 1, ids.end());
    next.push_back(-1);
  }
  std::vector<Sample> samples;
  for (size_t i = 0; i < held_out.size(); ++i) samples.push_back({held_out[i], labels[i]});
  const LossSums sums = run.trainer().model().losses(run.trainer().context(), samples, {1, 0});
  return sums.lm / static_cast<double>(sums.lm_targets);
}

// A normed query has norm sqrt(head_dim) and a normed key at most that times its largest norm weight, so their product over
// sqrt(head_dim) is bounded by this.
double attention_logit_bound(TestRun& run) {
  float largest = 0;
  for (const Parameter& p : run.trainer().parameters().parameters()) {
    if (!p.info.name.ends_with("attn.kv_norm.weight") &&
        !p.info.name.ends_with("attn.compressor.norm.weight"))
      continue;
    for (const float weight : p.master) largest = std::max(largest, std::abs(weight));
  }
  return std::sqrt(static_cast<double>(run.config().head_dim)) * largest;
}

// Where Muon reaches the goal AdamW, at the same rate, is not yet. One seed, at a rate that suits Muon: below 1e-3 the two are level on
// such texts. docs/ablations.md has both at their best rates.
TEST(LongRuns, MuonReachesALossInFewerStepsThanAdamwAndLogitsStayBounded) {
  constexpr double kGoal = 1.5;  // the texts' own entropy is 0.68
  constexpr int64_t kLimit = 150;
  RunConfig config = run_of_texts(kLimit, 4e-3);
  TestRun muon(config);
  config.trainer.optimizer.grouping.muon = false;
  TestRun adamw(config);
  const auto held_out = texts(12, 77);
  double muon_loss = 0, adamw_loss = 0;
  int64_t step = 0;
  do {
    muon.step();
    adamw.step();
    muon_loss = validation_loss(muon, held_out);
    adamw_loss = validation_loss(adamw, held_out);
    if (++step % 20 != 0) continue;
    const auto inside =
        verify::run_reference64(muon.config(), muon.trainer().parameters(), held_out[0], false)
            .value();
    EXPECT_LE(inside.max_attention_logit, attention_logit_bound(muon) * (1 + 1e-6));
    EXPECT_GT(inside.max_attention_logit, 0);
  } while (std::min(muon_loss, adamw_loss) > kGoal && step < kLimit);
  EXPECT_LE(muon_loss, kGoal) << "after step " << step;
  EXPECT_GT(adamw_loss, kGoal) << "after step " << step;
}

}  // namespace
}  // namespace cachalot::train
