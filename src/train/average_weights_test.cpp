#include "train/average_weights.h"

#include <gtest/gtest.h>

#include "base/test_data.h"
#include "formats/test_checkpoint.h"
#include "train/checkpoint.h"
#include "train/initialize.h"

namespace cachalot::train {
namespace {

class AverageWeightsTest : public ::testing::Test {
 protected:
  ParameterStore made(uint64_t seed) const {
    return initial_parameters(config_, {0.1, 0.01, seed});
  }
  std::string saved(const std::string& name, const ParameterStore& store) const {
    const std::string run = directory_.path() + "/" + name;
    EXPECT_TRUE(save_checkpoint(run, {config_, store, {}, json::object{}, "", "", 0, ""}).ok());
    return checkpoint_directory(run, 0);
  }
  formats::TemporaryDirectory directory_{"average"};
  formats::ModelConfig config_ = formats::load_config(test_data("golden/tiny")).value();
};

TEST_F(AverageWeightsTest, EachWeightIsTheMean) {
  const ParameterStore a = made(1);
  ParameterStore b = made(1);
  for (Parameter& parameter : b.parameters())
    for (float& x : parameter.master) x += 4;
  const std::vector<WeightedModel> models = {{saved("a", a), 1}, {saved("b", b), 3}};
  const Result<ParameterStore> mean = average_weights(models);
  ASSERT_TRUE(mean.has_value()) << mean.error().message();
  for (const Parameter& parameter : a.parameters()) {
    const std::vector<float>& found = mean->find(parameter.info.name)->master;
    for (size_t i = 0; i < found.size(); ++i)
      ASSERT_NEAR(found[i], parameter.master[i] + 3, 1e-6) << parameter.info.name;
  }
}

TEST_F(AverageWeightsTest, WhatDoesNotFitIsNamed) {
  const std::string a = saved("a", made(1));
  const std::vector<WeightedModel> none = {{a, 0}};
  EXPECT_NE(average_weights(none).error().message().find("a weight above 0"), std::string::npos);
  config_.vocab_size += 8;
  const std::vector<WeightedModel> other = {{a, 1}, {saved("other", made(1)), 1}};
  EXPECT_NE(average_weights(other).error().message().find("other"), std::string::npos);
}

}  // namespace
}  // namespace cachalot::train
