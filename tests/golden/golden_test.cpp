// The golden checkpoints through verify golden, and the trained nano through the engine beside what
// transformers makes of it.
#include "verify/golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "base/file.h"
#include "base/json.h"
#include "base/test_data.h"
#include "engine/engine.h"
#include "formats/convert.h"
#include "formats/test_checkpoint.h"
#include "verify/golden_run.h"

namespace cachalot::verify {
namespace {

std::string golden(const char* name) { return test_data("golden/") + name; }

void expect_set_holds(const std::string& directory, const char* precision, Invariance invariance) {
  VerifyOptions options;
  options.directory = directory;
  options.precision = precision;
  options.invariance = invariance;
  options.gradients = invariance == Invariance::brief;
  const Result<GoldenReport> report = verify_golden(options);
  ASSERT_TRUE(report.has_value()) << report.error().to_string();
  EXPECT_GT(report->num_checks(), 0);
  for (const std::string& failed : report->failed()) ADD_FAILURE() << failed;
}

void expect_holds(const char* name, const char* precision, Invariance invariance) {
  expect_set_holds(golden(name), precision, invariance);
}

TEST(Golden, TinyExact) { expect_holds("tiny", "exact", Invariance::brief); }
TEST(Golden, ClampExact) { expect_holds("clamp", "exact", Invariance::brief); }
// The tests' sets hold their matrices in bf16; a model in training holds them in fp32.
TEST(Golden, TinyExactInFp32) {
  const formats::TemporaryDirectory scratch("golden-fp32");
  formats::ConvertOptions f32;
  f32.precision = formats::ConvertPrecision::f32;
  const std::string copy = scratch.path("tiny");
  const auto summary = formats::convert_checkpoint(golden("tiny"), copy, f32);
  ASSERT_TRUE(summary.has_value()) << summary.error().to_string();
  const std::string expected = "/expected.safetensors.zst";
  std::filesystem::copy_file(golden("tiny") + expected, copy + expected);
  expect_set_holds(copy, "exact", Invariance::none);
}
TEST(Golden, QuantExact) { expect_holds("quant", "exact", Invariance::brief); }
TEST(Golden, QuantOfficial) { expect_holds("quant", "official", Invariance::brief); }
TEST(GoldenInvariance, TinyEveryPosition) { expect_holds("tiny", "exact", Invariance::full); }
TEST(GoldenInvariance, ClampEveryPosition) { expect_holds("clamp", "exact", Invariance::full); }
TEST(GoldenInvariance, QuantOfficialEveryPosition) {
  expect_holds("quant", "official", Invariance::full);
}

std::vector<int32_t> ids_of(const json::value& list) {
  std::vector<int32_t> ids;
  for (const json::value& id : list.as_array()) ids.push_back(static_cast<int32_t>(id.as_int64()));
  return ids;
}

// log softmax(logits)[id] in double.
double log_probability(std::span<const float> logits, int32_t id) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return logits[id] - top - std::log(sum);
}

// tests/golden/nano: bench/transformers/record_greedy.py.
class Trained : public ::testing::Test {
 protected:
  Trained() {
    const auto text = read_text_file(golden("nano/expected.json"));
    expected_ = parse_json(*text, "expected.json").value();
  }

  void expect_greedy_tokens(const std::string& model) {
    engine::EngineOptions options;
    options.model.path = model;
    options.model.precision = "exact";
    options.cache_bytes = int64_t{1} << 28;
    auto engine = engine::Engine::create(options);
    ASSERT_TRUE(engine.has_value()) << engine.error().to_string();
    for (const json::value& prompt : expected_.at("prompts").as_array()) {
      const std::vector<int32_t> ids = ids_of(prompt.at("ids"));
      const std::vector<int32_t> greedy = ids_of(prompt.at("greedy"));
      engine::Request request;
      request.prompt = ids;
      request.sampling.temperature = 0;
      request.max_new_tokens = static_cast<int64_t>(greedy.size());
      const auto sequence = (*engine)->open();
      ASSERT_TRUE(sequence.has_value());
      const auto completion = (*engine)->generate(*sequence, request);
      ASSERT_TRUE(completion.has_value()) << completion.error().to_string();
      EXPECT_EQ(completion->ids, greedy);
      (*engine)->close(*sequence);
    }
  }

  const std::string nano_ = test_data("../models/nano");
  json::value expected_;
};

TEST_F(Trained, GreedyTokens) { expect_greedy_tokens(nano_); }

// FP8 and FP4 values are bf16 values: the same model in another format, in several files.
TEST_F(Trained, GreedyTokensOfBf16InShards) {
  const formats::TemporaryDirectory scratch("golden-shards");
  formats::ConvertOptions options;
  options.precision = formats::ConvertPrecision::bf16;
  options.max_shard_bytes = 20'000'000;
  const auto summary = formats::convert_checkpoint(nano_, scratch.path("bf16"), options);
  ASSERT_TRUE(summary.has_value()) << summary.error().to_string();
  EXPECT_EQ(summary->num_files, 2);
  expect_greedy_tokens(scratch.path("bf16"));
}

TEST_F(Trained, HeldOutLoss) {
  auto model = engine::LoadedModel::load({nano_, "exact", "cpu", 0});
  ASSERT_TRUE(model.has_value()) << model.error().to_string();
  const std::vector<int32_t> ids = ids_of(expected_.at("held_ids"));
  const auto length = static_cast<int64_t>(ids.size());
  auto runner = GoldenRunner::create((*model)->transformer(), (*model)->context(), length, 1);
  const int64_t vocab = (*model)->transformer().config().vocab_size;
  auto sequence = (*runner)->new_sequence();
  const auto pass =
      (*runner)->run(*sequence, std::span(ids).first(static_cast<size_t>(length - 1)), {}, true);
  ASSERT_TRUE(pass.has_value());
  double nll = 0.0;
  for (int64_t t = 0; t + 1 < length; ++t)
    nll -=
        log_probability({pass->logits.data() + t * vocab, static_cast<size_t>(vocab)}, ids[t + 1]);
  // A log probability moves by at most twice what the logits do: 1e-4 (kStreamTolerance).
  EXPECT_NEAR(nll / static_cast<double>(length - 1), expected_.at("held_loss").as_double(), 2e-4);
}

}  // namespace
}  // namespace cachalot::verify
