// The golden checkpoints through verify golden, and the trained peer model through the engine.
#include "verify/golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/file.h"
#include "base/json.h"
#include "base/test_data.h"
#include "engine/engine.h"
#include "formats/safetensors.h"
#include "verify/golden_run.h"

namespace cachalot::verify {
namespace {

std::string golden(const char* name) { return test_data("golden/") + name; }

void expect_holds(const char* name, const char* precision, Invariance invariance) {
  VerifyOptions options;
  options.directory = golden(name);
  options.precision = precision;
  options.invariance = invariance;
  options.gradients = invariance == Invariance::brief;
  const Result<GoldenReport> report = verify_golden(options);
  ASSERT_TRUE(report.has_value()) << report.error().to_string();
  EXPECT_GT(report->num_checks(), 0);
  for (const std::string& failed : report->failed()) ADD_FAILURE() << failed;
}

TEST(Golden, TinyExact) { expect_holds("tiny", "exact", Invariance::brief); }
TEST(Golden, ClampExact) { expect_holds("clamp", "exact", Invariance::brief); }
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

TEST(Peer, GreedyTokens) {
  engine::EngineOptions options;
  options.model.path = golden("peer");
  options.model.precision = "exact";
  options.cache_bytes = int64_t{1} << 28;
  auto engine = engine::Engine::create(options);
  ASSERT_TRUE(engine.has_value()) << engine.error().to_string();
  const auto text = read_text_file(golden("peer") + "/expected.json");
  const auto expected = parse_json(*text, "expected.json");
  for (const json::value& prompt : expected->as_object().at("prompts").as_array()) {
    const std::vector<int32_t> ids = ids_of(prompt.as_object().at("ids"));
    const std::vector<int32_t> greedy = ids_of(prompt.as_object().at("greedy"));
    engine::GenerateRequest request;
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

TEST(Peer, HeldOutLoss) {
  auto model = engine::LoadedModel::load({golden("peer"), "exact", "cpu", 0});
  ASSERT_TRUE(model.has_value()) << model.error().to_string();
  const auto expected = formats::SafetensorsFile::open(golden("peer") + "/expected.safetensors");
  const tensor::TensorView* held = expected->find("held_ids");
  ASSERT_NE(held, nullptr);
  const int64_t rows = held->shape[0], length = held->shape[1];
  const std::vector<int64_t> all = tensor::to_integers(*held);
  auto runner = GoldenRunner::create((*model)->transformer(), (*model)->context(), length, 1);
  const int64_t vocab = (*model)->transformer().config().vocab_size;
  double nll = 0.0;
  for (int64_t b = 0; b < rows; ++b) {
    const std::vector<int32_t> ids(all.begin() + b * length, all.begin() + (b + 1) * length);
    auto sequence = (*runner)->new_sequence();
    const auto pass =
        (*runner)->run(*sequence, std::span(ids).first(static_cast<size_t>(length - 1)), {}, true);
    ASSERT_TRUE(pass.has_value());
    for (int64_t t = 0; t + 1 < length; ++t) {
      nll -= log_probability({pass->logits.data() + t * vocab, static_cast<size_t>(vocab)},
                             ids[t + 1]);
    }
  }
  EXPECT_NEAR(nll / static_cast<double>(rows * (length - 1)), 4.6695, 1e-3);
}

}  // namespace
}  // namespace cachalot::verify
