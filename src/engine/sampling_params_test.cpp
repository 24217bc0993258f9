#include "engine/sampling_params.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace cachalot::engine {
namespace {
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(SamplingParams, ValidationNamesTheField) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto refused = [](const char* text, auto&& change) {
    SamplingParams params;
    change(params);
    const Status status = validate(params, 100);
    EXPECT_EQ(status.code(), StatusCode::invalid_argument) << text;
    EXPECT_EQ(status.message().rfind(text, 0), 0u) << status.message();
  };
  EXPECT_TRUE(validate({}, 100).ok());
  for (const double bad : {-0.1, nan, static_cast<double>(kInf)}) {
    refused("temperature: ", [&](SamplingParams& p) { p.temperature = bad; });
    refused("repetition_penalty: ", [&](SamplingParams& p) { p.repetition_penalty = bad; });
    refused("min_p: ", [&](SamplingParams& p) { p.min_p = bad; });
    refused("top_p: ", [&](SamplingParams& p) { p.top_p = bad; });
  }
  refused("top_p: expected above 0 and at most 1, found 0", [](SamplingParams& p) { p.top_p = 0; });
  refused("top_p: ", [](SamplingParams& p) { p.top_p = 1.001; });
  refused("min_p: ", [](SamplingParams& p) { p.min_p = 1.001; });
  refused("repetition_penalty: ", [](SamplingParams& p) { p.repetition_penalty = 0; });
  refused("frequency_penalty: ", [&](SamplingParams& p) { p.frequency_penalty = nan; });
  refused("presence_penalty: ", [](SamplingParams& p) { p.presence_penalty = 1e7; });
  refused("top_k: ", [](SamplingParams& p) { p.top_k = -1; });
  refused("logit_bias: expected token ids of 0 to 99, found 100",
          [](SamplingParams& p) { p.logit_bias[100] = 1; });
  refused("logit_bias: ", [](SamplingParams& p) { p.logit_bias[-1] = 1; });
  refused("logit_bias of token 5: ", [&](SamplingParams& p) { p.logit_bias[5] = nan; });
  refused("logit_bias of token 5: ", [](SamplingParams& p) { p.logit_bias[5] = kInf; });
}

// What a request asks for, field by field, and its tokens counted apart.
TEST(RequestSampling, ARowHoldsTheParametersAndTheCounts) {
  SamplingParams params;
  params.temperature = 0.5;
  params.top_k = 3;
  params.top_p = 0.75;
  params.min_p = 0.25;
  params.repetition_penalty = 2;
  params.frequency_penalty = 3;
  params.presence_penalty = 4;
  params.logit_bias = {{7, 1.5}, {9, -kInf}};
  params.seed = 11;
  RequestSampling sampling(params, 100);
  sampling.add_prompt(99);
  sampling.add_output(5);
  sampling.add_prompt(5);
  sampling.add_output(5);
  const ops::SamplingRow row = sampling.row(42);
  EXPECT_EQ(row.temperature, 0.5);
  EXPECT_EQ(row.top_k, 3);
  EXPECT_EQ(row.top_p, 0.75);
  EXPECT_EQ(row.min_p, 0.25);
  EXPECT_EQ(row.repetition_penalty, 2);
  EXPECT_EQ(row.frequency_penalty, 3);
  EXPECT_EQ(row.presence_penalty, 4);
  EXPECT_EQ(row.seed, 11u);
  EXPECT_EQ(row.position, 42);
  ASSERT_EQ(row.biases.size(), 2u);
  EXPECT_EQ(row.biases[0].id, 7);
  EXPECT_EQ(row.biases[0].bias, 1.5);
  EXPECT_EQ(row.biases[1].bias, -kInf);
  ASSERT_EQ(row.counts.size(), 2u);
  EXPECT_EQ(row.counts[0].id, 99);
  EXPECT_EQ(row.counts[0].prompt, 1);
  EXPECT_EQ(row.counts[0].output, 0);
  EXPECT_EQ(row.counts[1].id, 5);
  EXPECT_EQ(row.counts[1].prompt, 1);
  EXPECT_EQ(row.counts[1].output, 2);
}

TEST(RequestSampling, AFaultyRowIsAnErrorThatNamesTheLogit) {
  const float logits[] = {0, std::numeric_limits<float>::quiet_NaN()};
  ops::SampledToken token;
  EXPECT_TRUE(sampled_status(token, logits).ok());
  token.fault = ops::SamplingFault::not_finite;
  token.faulty_id = 1;
  EXPECT_EQ(sampled_status(token, logits).to_string(),
            "invalid_argument: logit 1: expected a finite number or -inf, found nan");
  token.fault = ops::SamplingFault::nothing_to_choose;
  EXPECT_EQ(sampled_status(token, logits).to_string(),
            "invalid_argument: logits: expected a finite one of a token that is allowed, found "
            "only -inf");
}

}  // namespace
}  // namespace cachalot::engine
