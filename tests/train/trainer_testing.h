// A small model's training run in memory: 4 layers, MTP, made-up documents.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <vector>

#include "base/rng.h"
#include "base/test_data.h"
#include "base/thread_pool.h"
#include "data/data_testing.h"
#include "device/isa.h"
#include "formats/config.h"
#include "train/initialize.h"
#include "train/trainer.h"

namespace cachalot::train {

inline constexpr int64_t kSequence = 96;

inline formats::ModelConfig small_config() {
  formats::ModelConfig config = formats::load_config(test_data("golden/tiny")).value();
  config.num_hidden_layers = 4;
  config.num_nextn_predict_layers = 1;
  config.num_hash_layers = 1;
  config.compress_ratios = {0, 4, 8, 4, 0};
  config.vocab_size = 128;
  config.index_topk = 4;
  return config;
}

// Documents of many lengths in which most tokens follow from the one before.
inline std::shared_ptr<const data::TokenSource> documents(int64_t vocab_size) {
  RngStream rng(5, RngPurpose::data, 0);
  std::vector<std::vector<int32_t>> all;
  for (int64_t d = 0; d < 400; ++d) {
    auto& ids = all.emplace_back();
    const auto length = static_cast<size_t>(3 + rng.next_u32() % 200);
    uint32_t id = 0;
    while (ids.size() < length) {
      id = (rng.next_u32() % 8 == 0 ? rng.next_u32() : 5 * id + 1) % 32;
      ids.push_back(static_cast<int32_t>(id % static_cast<uint32_t>(vocab_size)));
    }
  }
  return std::make_shared<data::MemorySource>(std::move(all));
}

struct RunConfig {
  int threads = 2;
  int64_t packs_per_call = 4;
  int64_t packs_per_step = 4;
  int64_t total_tokens = 12 * 4 * kSequence;
  optim::AttentionSchedule attention = {};
  std::vector<optim::SequenceStage> sequence = {{0, kSequence}};
  TrainerConfig trainer = {};
  double learning_rate = 0.01;
  double init_std = 0.02;
  uint64_t weight_seed = 7, data_seed = 3;
  std::function<void(formats::ModelConfig&)> change = {};   // of the model
  std::shared_ptr<const data::TokenSource> text = nullptr;  // null: documents()
};

class TestRun {
 public:
  explicit TestRun(const RunConfig& run = {})
      : config_(small_config()), pool_(run.threads), ctx_{&pool_, &arena_, device::machine_isa()} {
    if (run.change) run.change(config_);
    optim::TrainingSchedule schedule;
    schedule.learning_rate.peak = run.learning_rate;
    schedule.learning_rate.warmup_steps = 2;
    schedule.sequence = run.sequence;
    schedule.batch = {run.packs_per_step * kSequence, run.packs_per_step * kSequence, 0,
                      run.total_tokens};
    schedule.attention = run.attention;
    data::LoaderConfig loader;
    loader.window_packs = 16;
    loader.seed = run.data_seed;
    std::vector<data::MixEntry> mix;
    mix.push_back(
        {data::Dataset::create("text", {run.text ? run.text : documents(config_.vocab_size)})
             .value(),
         1.0});
    TrainerConfig trainer = run.trainer;
    optim::GroupingOptions& grouping = trainer.optimizer.grouping;
    grouping.hc_mult = config_.hc_mult;
    grouping.head_dim = config_.head_dim;
    grouping.index_head_dim = config_.index_head_dim;
    grouping.num_attention_heads = config_.num_attention_heads;
    grouping.index_n_heads = config_.index_n_heads;
    grouping.o_groups = config_.o_groups;
    stream_ = StepStream::create(loader, std::move(mix), schedule, run.packs_per_call * kSequence)
                  .value();
    trainer_ = Trainer::create(ctx_, config_,
                               initial_parameters(config_, {run.init_std, 0.01, run.weight_seed}),
                               stream_, trainer)
                   .value();
  }
  // What the trainer reads, read apart.
  StepStream& stream() { return *stream_; }
  Trainer& trainer() { return *trainer_; }
  const formats::ModelConfig& config() const { return config_; }
  StepResult step() { return trainer_->step().value().value(); }
  std::vector<double> losses(int64_t steps) {
    std::vector<double> out;
    for (int64_t i = 0; i < steps; ++i) out.push_back(step().lm_loss);
    return out;
  }

  // Masters and moments, all bytes.
  std::vector<std::vector<std::byte>> state() {
    std::vector<std::vector<std::byte>> out;
    for (const std::span<std::byte> bytes : spans()) out.emplace_back(bytes.begin(), bytes.end());
    return out;
  }
  void set_state(const std::vector<std::vector<std::byte>>& from) {
    const auto to = spans();
    ASSERT_EQ(to.size(), from.size());
    for (size_t i = 0; i < to.size(); ++i) std::copy(from[i].begin(), from[i].end(), to[i].begin());
  }

 private:
  std::vector<std::span<std::byte>> spans() {
    std::vector<std::span<std::byte>> out;
    for (Parameter& p : trainer_->parameters().parameters())
      out.push_back(std::as_writable_bytes(std::span(p.master)));
    for (const optim::StateArray& array : trainer_->optimizer().state()) out.push_back(array.bytes);
    return out;
  }

  formats::ModelConfig config_;
  ThreadPool pool_;
  device::Arena arena_;
  device::ExecContext ctx_;
  std::optional<StepStream> stream_;
  std::unique_ptr<Trainer> trainer_;
};

}  // namespace cachalot::train
