// A Base checkpoint (FP8 experts, scales in F32) through the engine.
// Source  reference/forward 1.3.
#include <cmath>

#include "engine/trained_model.h"
#include "formats/convert.h"
#include "formats/test_checkpoint.h"

namespace cachalot::engine {
namespace {

std::vector<double> logprobs(const std::string& path, std::span<const int32_t> prompt) {
  EngineOptions options;
  options.model = {.path = path, .precision = "exact", .threads = 2};
  options.cache_bytes = int64_t{1} << 26;
  auto engine = Engine::create(options);
  EXPECT_TRUE(engine.has_value()) << engine.error().message();
  if (!engine) return {};
  std::vector<double> out;
  for (size_t length = 1; length <= prompt.size(); ++length) {
    const SequenceId id = (*engine)->open().value();
    Request request;
    const auto first = prompt.first(length);
    request.prompt.assign(first.begin(), first.end());
    request.max_new_tokens = 1;
    request.sampling.seed = length;
    out.push_back((*engine)->generate(id, request).value().logprobs.at(0));
    (*engine)->close(id);
  }
  return out;
}

// The same probabilities as from a checkpoint with the products of weights and scales written out
// in F32. The model's sums differ in where the scale is applied: once per group of 128 inputs here,
// per weight there, a relative rounding of 2^-24 each, over sums of at most 512 terms and three
// layers; 1e-3 of a nat is a thousand times that.
TEST(BaseCheckpoint, LoadsAndGivesWhatItsValuesGive) {
  const formats::TemporaryDirectory base("base-checkpoint"), plain("base-written-out");
  formats::ModelConfig config = formats::load_config(test_data("golden/quant")).value();
  config.expert_dtype = formats::ExpertDType::fp8;
  config.quantization_config.scale_fmt.clear();
  ASSERT_TRUE(formats::write_random_model(base.path(), config, int64_t{1} << 40).ok());
  formats::ConvertOptions options;
  options.precision = formats::ConvertPrecision::f32;
  const auto summary = formats::convert_checkpoint(base.path(), plain.path(), options);
  ASSERT_TRUE(summary.has_value()) << summary.error().message();
  const std::vector<int32_t> prompt = {1, 17, 200, 31, 5, 77, 140, 9, 64, 250};
  const std::vector<double> found = logprobs(base.path(), prompt);
  const std::vector<double> expected = logprobs(plain.path(), prompt);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_TRUE(std::isfinite(found[i]));
    EXPECT_NEAR(found[i], expected[i], 1e-3) << i;
  }
}

}  // namespace
}  // namespace cachalot::engine
