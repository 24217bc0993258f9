// For tests: checkpoints of a small model and made-up optimizer state in a folder that goes away.
#pragma once

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <vector>

#include "data/data_testing.h"
#include "formats/presets.h"
#include "train/checkpoint.h"
#include "train/initialize.h"

namespace cachalot::train {

class CheckpointFiles : public data::DataFiles {
 protected:
  static formats::ModelConfig small_config() {
    formats::ModelConfig config = formats::nano_config();
    config.vocab_size = 64;
    config.hidden_size = 128;
    config.num_hidden_layers = 2;
    config.compress_ratios = {0, 4, 0};
    config.n_routed_experts = 4;
    return config;
  }
  CheckpointFiles()
      : config_(small_config()), parameters_(initial_parameters(config_, {0.02, 0.01, 1})) {}
  std::vector<optim::StateArray> arrays() {
    return {{"a.momentum", tensor::DType::f32, {3}, std::as_writable_bytes(std::span(momentum_))},
            {"trainer.x", tensor::DType::f64, {2}, std::as_writable_bytes(std::span(own_))}};
  }
  std::vector<optim::StateArray> targets(std::vector<float>& momentum) {
    return {{"a.momentum", tensor::DType::f32, {3}, std::as_writable_bytes(std::span(momentum))}};
  }
  Status save(int64_t step) {
    return save_checkpoint(
        path("run"), {config_, parameters_, arrays(), json::object{{"step", step}}, "seed = 1\n",
                      "", step, "hash"});
  }
  std::string at(int64_t step) { return checkpoint_directory(path("run"), step); }

  formats::ModelConfig config_;
  ParameterStore parameters_;
  std::vector<float> momentum_ = {1, 2, 3};
  std::vector<double> own_ = {0.1, 0.2};
};

}  // namespace cachalot::train
