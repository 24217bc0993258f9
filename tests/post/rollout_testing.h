// A small model whose shapes fit FP8 and FP4, with a trainer and an engine that samples with its
// weights.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "base/test_data.h"
#include "base/thread_pool.h"
#include "device/isa.h"
#include "formats/test_checkpoint.h"
#include "post/policy_batch.h"
#include "post/rollout_engine.h"
#include "post/rollouts.h"
#include "train/initialize.h"
#include "train/trainer.h"

namespace cachalot::post::testing {

// Every kind of layer, hash routing, an MTP block.
inline formats::ModelConfig policy_config(int64_t vocab_size) {
  formats::ModelConfig config = formats::load_config(test_data("golden/quant")).value();
  config.vocab_size = vocab_size;
  config.num_hidden_layers = 4;
  config.compress_ratios = {0, 4, 8, 4, 0};
  config.sliding_window = 16;
  config.index_topk = 3;
  config.max_position_embeddings = 1024;
  return config;
}

class Policy {
 public:
  explicit Policy(train::TrainingPrecision precision, int64_t vocab_size = 96)
      : config_(policy_config(vocab_size)),
        precision_(precision),
        ctx_{&pool_, &arena_, device::machine_isa()} {
    train::TrainerConfig trainer;
    trainer.precision = precision;
    trainer.balance_alpha = 0;
    trainer.bias_update_rate = 0;
    trainer.indexer_loss = 0;
    optim::GroupingOptions& grouping = trainer.optimizer.grouping;
    grouping.hc_mult = config_.hc_mult;
    grouping.head_dim = config_.head_dim;
    grouping.index_head_dim = config_.index_head_dim;
    grouping.num_attention_heads = config_.num_attention_heads;
    grouping.index_n_heads = config_.index_n_heads;
    grouping.o_groups = config_.o_groups;
    // Wide enough that the policy has preferences.
    trainer_ =
        train::Trainer::create(ctx_, config_, train::initial_parameters(config_, {0.1, 0.01, 11}),
                               std::nullopt, trainer)
            .value();
  }
  const formats::ModelConfig& config() const { return config_; }
  train::Trainer& trainer() { return *trainer_; }
  device::ExecContext& ctx() { return ctx_; }

  std::unique_ptr<engine::Engine> engine(int64_t version = 0, int threads = 1,
                                         int64_t max_sequences = 6) {
    return make_rollout_engine(config_, trainer_->parameters(), precision_,
                               {.max_sequences = max_sequences,
                                .max_context_tokens = 256,
                                .max_drafts = 3,
                                .threads = threads},
                               version)
        .value();
  }

 private:
  formats::ModelConfig config_;
  train::TrainingPrecision precision_;
  ThreadPool pool_{2};
  device::Arena arena_;
  device::ExecContext ctx_;
  std::unique_ptr<train::Trainer> trainer_;
};

inline RolloutPlan small_plan(int64_t num_groups, int64_t group_size, int64_t max_new_tokens,
                              uint32_t vocab_size = 96) {
  RolloutPlan plan;
  plan.step = 5;
  plan.seed = 3;
  plan.group_size = group_size;
  plan.sampling.temperature = 1.0;
  plan.sampling.top_p = 0.8;
  plan.end_tokens = {1};
  for (int64_t g = 0; g < num_groups; ++g) {
    RolloutGroup& group = plan.groups.emplace_back();
    RngStream rng(9, RngPurpose::data, static_cast<uint64_t>(g));
    for (int64_t i = 0; i < 9 + 7 * g; ++i)
      group.prompt.push_back(static_cast<int32_t>(2 + rng.next_u32() % (vocab_size - 6)));
    group.max_new_tokens = max_new_tokens;
  }
  return plan;
}

inline bool same(const RolloutAnswer& a, const RolloutAnswer& b) {
  return a.ids == b.ids && a.is_sampled == b.is_sampled && a.logprobs == b.logprobs &&
         a.end == b.end;
}
inline bool same(const HeavyFields& a, const HeavyFields& b) {
  return a.allowed == b.allowed && a.experts == b.experts && a.prompt_experts == b.prompt_experts;
}
inline void expect_same(const RolloutLog& found, const RolloutLog& expected,
                        const std::string& what) {
  for (size_t i = 0; i < expected.answers().size(); ++i) {
    const auto number = static_cast<int64_t>(i);
    EXPECT_TRUE(same(found.answers()[i], expected.answers()[i])) << what << ": answer " << i;
    EXPECT_TRUE(same(found.heavy(number).value(), expected.heavy(number).value()))
        << what << ": answer " << i;
  }
}

}  // namespace cachalot::post::testing
