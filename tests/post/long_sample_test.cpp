// The data path of long answers: what is heavy of them is in memory for one mini-batch at a time.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>

#include "base/thread_pool.h"
#include "device/isa.h"
#include "formats/test_checkpoint.h"
#include "post/grpo_loss.h"
#include "post/policy_batch.h"
#include "post/rollouts.h"
#include "rollout_testing.h"

namespace cachalot::post {
namespace {

// Of this process, in bytes; the most since reset_peak().
int64_t peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  }
  return 0;
}
bool reset_peak() {
  std::ofstream clear("/proc/self/clear_refs");
  clear << "5";
  clear.flush();
  return clear.good();
}

class LongSampleTest : public ::testing::Test {
 protected:
  // A log of answers that sampling could have given: every token cut to some of the vocabulary.
  RolloutPlan plan(int64_t num_groups, int64_t group_size, int64_t length) const {
    RolloutPlan plan;
    plan.group_size = group_size;
    for (int64_t g = 0; g < num_groups; ++g) plan.groups.push_back({{2, 3, 4, 5}, length});
    return plan;
  }
  void fill(RolloutLog& log, const RolloutPlan& plan, int64_t length) const {
    const int64_t per_row = log.head().choices_per_row;
    const auto experts = [&](int64_t rows, int64_t seed) {
      std::vector<uint16_t> out;
      for (int64_t i = 0; i < rows * per_row; ++i)
        out.push_back(static_cast<uint16_t>((i + seed) % log.head().num_experts));
      return out;
    };
    for (int64_t g = 0; g < log.head().num_groups; ++g)
      ASSERT_TRUE(log.add_prompt(g, experts(3, g)).ok());
    for (int64_t number = 0; number < plan.num_answers(); ++number) {
      for (int64_t i = 0; i < length; ++i) {
        const auto id = static_cast<int32_t>((number + i * 7) % (log.head().vocab_size - 8));
        ASSERT_TRUE(log.add_token(number, {.id = id,
                                           .logprob = -1.0 - static_cast<double>(i % 3),
                                           .allowed = {id, id + 1, id + 5},
                                           .experts = experts(1, i)})
                        .ok());
      }
      ASSERT_TRUE(log.finish(number, AnswerEnd::stop).ok());
    }
  }
  // Losses and their gradients over made-up logits, lot by lot, as the trainer's head gives them.
  GrpoValues run_loss(const PolicyBatch& batch, int64_t vocab_size, double* sum) {
    const std::vector<double> advantages(batch.samples().size(), 0.5);
    const GrpoRows rows{batch.offsets(), advantages, batch.sampler(), batch.sampler()};
    GrpoLoss loss(rows, {rows.num_sequences(), rows.num_tokens()}, {}, batch.allowed());
    std::vector<int32_t> labels;
    for (const train::Sample& sample : batch.samples()) {
      for (const int32_t label : sample.labels) {
        if (label >= 0) labels.push_back(label);
      }
    }
    constexpr int64_t kLot = 4096;
    const auto count = static_cast<int64_t>(labels.size());
    for (const bool looks : {true, false}) {
      for (int64_t first = 0; first < count; first += kLot) {
        const device::ArenaScope scope(arena_);
        const int64_t size = std::min(kLot, count - first);
        autograd::Tape tape(activations_, ctx_);
        const autograd::Context context(ctx_, &tape);
        float* logits = context.floats(size * vocab_size);
        for (int64_t i = 0; i < size * vocab_size; ++i)
          logits[i] = static_cast<float>((first + i) % 11) * 0.1f;
        const train::LogitsLoss::Lot lot{first, std::span(labels).subspan(first, size), logits,
                                         vocab_size};
        if (looks) {
          loss.look(ctx_, lot);
          continue;
        }
        loss.add(context, lot);
        const float* slope = tape.grad(logits);
        for (int64_t i = 0; i < size * vocab_size; ++i) *sum += std::abs(slope[i]);
      }
    }
    return loss.values();
  }

  formats::TemporaryDirectory directory_{"long-sample"};
  formats::ModelConfig config_ = testing::policy_config(64);
  ThreadPool pool_{1};
  device::Arena arena_;
  device::PagedArena activations_;
  device::ExecContext ctx_{&pool_, &arena_, device::machine_isa()};
};

// ML3, ML4: peak memory follows the answers at hand, not those of the step; what they are is what
// was logged.
TEST_F(LongSampleTest, MemoryFollowsTheAnswersAtHand) {
  constexpr int64_t kLength = 60000;
  const RolloutPlan plan = this->plan(4, 4, kLength);
  RolloutLog log = RolloutLog::open(directory_.path() + "/log", log_head(plan, config_)).value();
  fill(log, plan, kLength);
  const auto of_batch = [&](std::span<const int64_t> numbers) {
    EXPECT_TRUE(reset_peak());
    const int64_t before = peak_bytes();
    double sum = 0;
    for (const int64_t number : numbers) {
      const auto batch = PolicyBatch::create(plan, log, std::span(&number, 1), config_).value();
      EXPECT_EQ(batch->num_labels(), kLength);
      const std::vector<int32_t>& first = batch->choices().experts[1];
      EXPECT_EQ(first[0], number / 4 % config_.n_routed_experts);
      EXPECT_EQ(run_loss(*batch, 64, &sum).ratio.size(), static_cast<size_t>(kLength));
    }
    EXPECT_GT(sum, 0);
    return peak_bytes() - before;
  };
  const std::vector<int64_t> some = {0}, all = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  const int64_t warm = of_batch(some), one = of_batch(some), twelve = of_batch(all);
  std::printf("peak %.1f MiB of one answer, %.1f MiB of twelve, one after the other\n",
              static_cast<double>(std::max(warm, one)) / (1 << 20),
              static_cast<double>(twelve) / (1 << 20));
  EXPECT_LT(twelve, 1.5 * static_cast<double>(std::max(warm, one)) + (4 << 20));
}

// Done-when 6: a sample of a million tokens, with its routing and its masks.
TEST_F(LongSampleTest, AMillionTokensTakeOneMiniBatchOfMemory) {
  constexpr int64_t kLength = 1'048'576 - 4;
  const RolloutPlan plan = this->plan(1, 1, kLength);
  RolloutLog log = RolloutLog::open(directory_.path() + "/log", log_head(plan, config_)).value();
  fill(log, plan, kLength);
  ASSERT_TRUE(reset_peak());
  const int64_t before = peak_bytes();
  const std::vector<int64_t> numbers = {0};
  double sum = 0;
  {
    const auto batch = PolicyBatch::create(plan, log, numbers, config_).value();
    const GrpoValues values = run_loss(*batch, 64, &sum);
    EXPECT_EQ(values.ratio.size(), static_cast<size_t>(kLength));
  }
  EXPECT_GT(sum, 0);
  const int64_t peak = peak_bytes() - before;
  // Per token: id and label 4 each, the sampler's and the policy's log-probability 8 each, six
  // experts as logged (2 each) and as the trainer takes them (4 each), the set as a list (24 and
  // 32) and as bits (8), the loss's four values 8 each: 152; and what vectors grow by.
  const auto per_token = static_cast<double>(peak) / static_cast<double>(kLength);
  std::printf("%.1f MiB at most, %.1f bytes a token\n", static_cast<double>(peak) / (1 << 20),
              per_token);
  EXPECT_LT(per_token, 2 * 152);
}

}  // namespace
}  // namespace cachalot::post
