#include "formats/convert.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <map>

#include "base/test_data.h"
#include "formats/test_checkpoint.h"
#include "formats/weight_source.h"

namespace cachalot::formats {
namespace {

namespace fs = std::filesystem;
using tensor::DType;

ModelConfig golden(const std::string& name) {
  return load_config(test_data("formats/config/golden-") + name + ".json").value();
}

// Small enough to convert many times: two layers, one of them CSA, and an MTP block.
ModelConfig small_quant() {
  ModelConfig config = golden("quant");
  config.num_hidden_layers = 2;
  config.compress_ratios = {0, 4, 0};
  config.n_routed_experts = 3;
  return config;
}

// Every file of a directory.
std::map<std::string, std::string> files_of(const std::string& directory) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::directory_iterator(directory)) {
    out[entry.path().filename()] = read_text_file(entry.path().string()).value();
  }
  return out;
}

// Every tensor as "DTYPE [shape]" and its bytes, whatever the sharding.
std::map<std::string, std::string> tensors_of(const std::string& directory) {
  std::map<std::string, std::string> out;
  const auto checkpoint = Checkpoint::open(directory);
  EXPECT_TRUE(checkpoint.has_value()) << checkpoint.error().message();
  for (const auto& entry : checkpoint.value().entries()) {
    const auto bytes = entry.view->bytes();
    out[std::string(entry.name)] =
        std::string(entry.stored->dtype) + tensor::shape_string(entry.stored->shape) +
        std::string(tensor::dtype_name(entry.view->dtype)) +
        tensor::shape_string(entry.view->shape) +
        std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return out;
}

// Every weight of the configuration as floats.
std::map<std::string, std::vector<float>> values_of(const std::string& directory) {
  std::map<std::string, std::vector<float>> out;
  const auto source = WeightSource::open(directory);
  EXPECT_TRUE(source.has_value()) << source.error().message();
  EXPECT_TRUE(source.value().validate().ok()) << source.value().validate().message();
  for (const TensorInfo& info : source.value().inventory()) {
    const bool is_matrix =
        info.tensor_class == TensorClass::linear || info.tensor_class == TensorClass::expert;
    out[info.name] = is_matrix ? tensor::dequantize(source.value().matrix(info.name).value())
                               : source.value().floats(info.name).value();
  }
  return out;
}

ConvertSummary convert(const std::string& source, const std::string& destination,
                       const ConvertOptions& options) {
  const auto summary = convert_checkpoint(source, destination, options);
  EXPECT_TRUE(summary.has_value()) << summary.error().message();
  return summary.has_value() ? summary.value() : ConvertSummary{};
}

TEST(Convert, NamesAndShardsComeBackByteForByte) {
  TemporaryDirectory work("names");
  const std::string a = work.path("a"), b = work.path("b"), c = work.path("c"), d = work.path("d");
  fs::create_directories(a);
  ASSERT_TRUE(write_random_model(a, small_quant(), int64_t{1} << 40).ok());
  ASSERT_TRUE(write_file_atomically(work.path("a/tokenizer.json"), "{}").ok());
  ConvertOptions options;
  options.names = NameFamily::transformers;
  options.max_shard_bytes = 300'000;
  const ConvertSummary there = convert(a, b, options);
  EXPECT_GT(there.num_files, 3);
  EXPECT_FALSE(tensors_of(b) == tensors_of(a));
  EXPECT_TRUE(Checkpoint::open(b).value().find("model.layers.1.mlp.experts.gate_up_proj") !=
              nullptr);
  EXPECT_TRUE(values_of(b) == values_of(a));
  options.names = NameFamily::official;
  options.max_shard_bytes = int64_t{1} << 40;
  convert(b, c, options);
  // Beside the original's files lie those that transformers needed.
  const auto back = files_of(c);
  for (const auto& [name, text] : files_of(a)) EXPECT_TRUE(back.at(name) == text) << name;
  options.max_shard_bytes = 100'000;
  convert(a, d, options);
  EXPECT_TRUE(tensors_of(d) == tensors_of(a));
  EXPECT_EQ(read_text_file(work.path("d/config.json")).value(),
            read_text_file(work.path("a/config.json")).value());
}

// A checkpoint as transformers saves it becomes a public one, in names and in keys.
TEST(Convert, PublicNamesComeWithPublicKeys) {
  TemporaryDirectory work("keys");
  const std::string a = work.path("a"), b = work.path("b");
  fs::create_directories(a);
  const std::string text =
      read_text_file(test_data("formats/config/transformers5-tiny.json")).value();
  ASSERT_TRUE(write_file_atomically(a + "/config.json", text).ok());
  const ModelConfig config = load_config(a).value();
  ASSERT_TRUE(write_random_model(a, config, int64_t{1} << 40).ok());
  ASSERT_TRUE(write_file_atomically(a + "/config.json", text).ok());
  for (const ConvertPrecision precision : {ConvertPrecision::keep, ConvertPrecision::bf16}) {
    const std::string to = b + std::to_string(static_cast<int>(precision));
    ConvertOptions options;
    options.precision = precision;
    convert(a, to, options);
    const json::value written =
        parse_json(read_text_file(to + "/config.json").value(), "config.json").value();
    EXPECT_FALSE(written.as_object().contains("layer_types"));
    EXPECT_TRUE(written.as_object().contains("compress_ratios"));
    EXPECT_EQ(load_config(to).value().compress_ratios, config.compress_ratios);
    EXPECT_TRUE(WeightSource::open(to).value().validate().ok());
  }
}

TEST(Convert, WritesWhatTransformersNeeds) {
  TemporaryDirectory work("needs");
  const std::string a = work.path("a"), b = work.path("b");
  fs::create_directories(a);
  ModelConfig config = small_quant();
  ASSERT_TRUE(write_random_model(a, config, int64_t{1} << 40).ok());
  ASSERT_TRUE(write_file_atomically(a + "/tokenizer.json",
                                    "{\"added_tokens\": [{\"id\": 0, \"content\": \"<b>\"}, "
                                    "{\"id\": 1, \"content\": \"<e>\"}]}")
                  .ok());
  ASSERT_TRUE(write_file_atomically(a + "/generation_config.json", "{\"kept\": 1}").ok());
  ConvertOptions options;
  options.names = NameFamily::transformers;
  const ConvertSummary summary = convert(a, b, options);
  EXPECT_TRUE(summary.unknown_ratios.empty());
  EXPECT_TRUE(summary.is_quantised_there);
  const std::string settings = read_text_file(b + "/tokenizer_config.json").value();
  for (const char* told : {"\"<b>\"", "\"<e>\"", "PreTrainedTokenizerFast"})
    EXPECT_NE(settings.find(told), std::string::npos) << told;
  EXPECT_NE(read_text_file(b + "/chat_template.jinja").value().find("add_generation_prompt"),
            std::string::npos);
  EXPECT_EQ(read_text_file(b + "/generation_config.json").value(), "{\"kept\": 1}");
  const std::string c = work.path("c"), d = work.path("d");
  fs::create_directories(c);
  config.compress_ratios[1] = 16;
  ASSERT_TRUE(write_random_model(c, config, int64_t{1} << 40).ok());
  options.precision = ConvertPrecision::bf16;
  const ConvertSummary plain = convert(c, d, options);
  EXPECT_EQ(plain.unknown_ratios, std::vector<int64_t>{16});
  EXPECT_FALSE(plain.is_quantised_there);
  EXPECT_FALSE(fs::exists(d + "/tokenizer_config.json"));  // no tokenizer, nothing to say of it
  EXPECT_TRUE(fs::exists(d + "/generation_config.json"));
}

TEST(Convert, DequantisedAndBack) {
  for (const ConvertPrecision precision : {ConvertPrecision::f32, ConvertPrecision::bf16}) {
    TemporaryDirectory work("dequantised");
    const std::string a = work.path("a"), b = work.path("b"), c = work.path("c"),
                      d = work.path("d"), e = work.path("e");
    fs::create_directories(a);
    ASSERT_TRUE(write_random_model(a, small_quant(), 1'000'000).ok());
    ConvertOptions options;
    options.precision = precision;
    options.max_shard_bytes = 1'000'000;
    const ConvertSummary there = convert(a, b, options);
    // Loaders that take every *.safetensors find weights in each.
    for (const auto& [name, bytes] : files_of(b)) {
      EXPECT_TRUE(!name.ends_with(".safetensors") || name.starts_with("model-")) << name;
    }
    EXPECT_EQ(there.rounded_values, 0);  // every FP8 and FP4 value is a bf16 value
    EXPECT_TRUE(values_of(b) == values_of(a));
    const auto plain = WeightSource::open(b);
    EXPECT_FALSE(plain.value().config().quantization_config.present);
    EXPECT_EQ(plain.value().matrix("layers.1.attn.wq_a.weight").value().weight.dtype,
              precision == ConvertPrecision::f32 ? DType::f32 : DType::bf16);
    EXPECT_EQ(plain.value().tensor("layers.1.hc_attn_fn").value().dtype, DType::f32);
    // With the old scales, from the file beside it or from the original: the same bytes. Without:
    // the same values.
    options.precision = ConvertPrecision::quantized;
    convert(b, c, options);
    EXPECT_TRUE(tensors_of(c) == tensors_of(a));
    fs::remove(work.path("b/") + kScalesFile);
    const ConvertSummary alone = convert(b, e, options);
    EXPECT_EQ(alone.blocks.inexact_blocks, 0);
    EXPECT_EQ(alone.blocks.preferred_blocks, 0);
    EXPECT_TRUE(values_of(e) == values_of(a));
    EXPECT_FALSE(tensors_of(e) == tensors_of(a));
    options.like = a;
    const ConvertSummary like = convert(b, d, options);
    EXPECT_EQ(like.blocks.preferred_blocks, like.blocks.blocks);
    EXPECT_TRUE(tensors_of(d) == tensors_of(a));
    for (const auto& [name, text] : files_of(a)) {
      if (name == "config.json") continue;
      EXPECT_TRUE(files_of(d).at(name) == text) << name;
    }
    EXPECT_EQ(to_pretty_json(to_json(load_config(d).value())),
              to_pretty_json(to_json(load_config(a).value())));
  }
}

TEST(Convert, AScalesFileThatLiesIsIgnoredOrRefused) {
  TemporaryDirectory work("scales");
  const std::string a = work.path("a"), b = work.path("b"), c = work.path("c");
  fs::create_directories(a);
  ASSERT_TRUE(write_random_model(a, small_quant(), 1'000'000).ok());
  ConvertOptions options;
  options.precision = ConvertPrecision::bf16;
  convert(a, b, options);
  options.precision = ConvertPrecision::quantized;
  const std::string scales = b + "/" + kScalesFile;
  ASSERT_TRUE(write_file_atomically(scales, "not a file of tensors").ok());
  EXPECT_FALSE(convert_checkpoint(b, c, options).has_value());
  // Wrong shape, and scales under which nothing is exact.
  const std::vector<std::byte> one(1, std::byte{1}), two(2, std::byte{1});
  ASSERT_TRUE(write_safetensors(scales,
                                {{"layers.0.attn.wq_a.scale", DType::f8_e8m0, {1}},
                                 {"layers.0.attn.wkv.scale", DType::f8_e8m0, {1, 2}}},
                                {one, two})
                  .ok());
  EXPECT_EQ(convert(b, c, options).blocks.preferred_blocks, 0);
  EXPECT_TRUE(values_of(c) == values_of(a));
}

TEST(Convert, QuantisedTensorsKeepTheirBytes) {
  TemporaryDirectory work("kept");
  const std::string a = work.path("a"), b = work.path("b");
  fs::create_directories(a);
  ASSERT_TRUE(write_random_model(a, small_quant(), 1'000'000).ok());
  ConvertOptions options;
  options.precision = ConvertPrecision::quantized;
  const ConvertSummary summary = convert(a, b, options);
  EXPECT_EQ(summary.copied_tensors, summary.num_tensors);
  EXPECT_TRUE(tensors_of(b) == tensors_of(a));
}

TEST(Convert, ExpertsToFp8AndBack) {
  TemporaryDirectory work("recast");
  const std::string a = work.path("a"), b = work.path("b"), c = work.path("c");
  fs::create_directories(a);
  ASSERT_TRUE(write_random_model(a, small_quant(), 1'000'000).ok());
  ConvertOptions options;
  options.experts = ExpertTarget::fp8;
  convert(a, b, options);
  EXPECT_TRUE(values_of(b) == values_of(a));
  const auto fp8 = WeightSource::open(b);
  EXPECT_EQ(fp8.value().config().expert_dtype, ExpertDType::fp8);
  const auto matrix = fp8.value().matrix("layers.0.ffn.experts.2.w1.weight").value();
  EXPECT_EQ(matrix.weight.dtype, DType::f8_e4m3);
  // The official rule: the tile's largest scale / 64.
  const auto from = WeightSource::open(a);
  const auto fp4 = from.value().matrix("layers.0.ffn.experts.2.w1.weight").value();
  uint8_t largest = 0;
  for (int64_t r = 0; r < 128; ++r) {
    for (int64_t j = 4; j < 8; ++j) largest = std::max(largest, fp4.scale.as<uint8_t>()[r * 8 + j]);
  }
  EXPECT_EQ(matrix.scale.as<uint8_t>()[1], largest - 6);
  options.experts = ExpertTarget::fp4;
  options.like = a;
  convert(b, c, options);
  EXPECT_TRUE(tensors_of(c) == tensors_of(a));
}

// Scales 2^20 apart in one tile: no e4m3 scale holds both.
TEST(Convert, ARecastThatWouldLoseBitsIsRefused) {
  TemporaryDirectory work("lossy");
  ModelConfig config = small_quant();
  const std::string a = work.path("a");
  fs::create_directories(a);
  ASSERT_TRUE(write_file_atomically(a + "/config.json", to_pretty_json(to_json(config))).ok());
  auto writer = CheckpointWriter::create(a, stored_tensors(config), int64_t{1} << 40);
  for (const size_t i : writer->order()) {
    std::vector<std::byte> bytes = random_bytes(writer->next(), i, config.n_routed_experts);
    if (writer->next().name == "layers.1.ffn.experts.1.w2.scale") bytes[5] = std::byte{140};
    ASSERT_TRUE(writer->write(bytes).ok());
  }
  ASSERT_TRUE(writer->finish().ok());
  ConvertOptions options;
  options.experts = ExpertTarget::fp8;
  const auto summary = convert_checkpoint(a, work.path("b"), options);
  ASSERT_FALSE(summary.has_value());
  EXPECT_NE(summary.error().message().find("layers.1.ffn.experts.1.w2.weight"), std::string::npos)
      << summary.error().message();
  EXPECT_TRUE(fs::is_empty(work.path("b")));
}

TEST(Convert, UnquantisedModelsQuantiseToThePublicLayout) {
  TemporaryDirectory work("public");
  const std::string a = work.path("a"), b = work.path("b");
  fs::create_directories(a);
  ModelConfig config = small_quant();
  config.quantization_config.present = false;
  config.expert_dtype = ExpertDType::none;
  config.torch_dtype = "float32";
  ASSERT_TRUE(write_random_model(a, config, int64_t{1} << 40).ok());
  ConvertOptions options;
  options.precision = ConvertPrecision::quantized;
  const ConvertSummary summary = convert(a, b, options);
  EXPECT_GT(summary.rounded_values, 0);
  EXPECT_GT(summary.blocks.inexact_blocks, 0);
  std::map<std::string, std::string> expected, found;
  for (const TensorSpec& spec : stored_tensors(small_quant())) {
    expected[spec.name] =
        std::string(tensor::dtype_name(spec.dtype)) + tensor::shape_string(spec.shape);
  }
  const auto written = Checkpoint::open(b);
  for (const auto& entry : written.value().entries()) {
    found[std::string(entry.name)] = std::string(tensor::dtype_name(entry.view->dtype)) +
                                     tensor::shape_string(entry.view->shape);
  }
  EXPECT_EQ(found, expected);
  // FP8 keeps 3 bits of fraction: within 1/16 of the value, or half a subnormal step of the block.
  const auto before = values_of(a), after = values_of(b);
  const auto& x = before.at("layers.1.attn.wq_b.weight");
  const auto& y = after.at("layers.1.attn.wq_b.weight");
  for (size_t i = 0; i < x.size(); ++i)
    ASSERT_NEAR(y[i], x[i], std::fabs(x[i]) / 16 + 0x1p-10 * 0x1p-8) << i;
}

TEST(Convert, UnknownTensorsAndMissingMtpBlocks) {
  TemporaryDirectory work("unknown");
  const std::string a = work.path("a"), b = work.path("b");
  fs::create_directories(a);
  const ModelConfig config = small_quant();
  ASSERT_TRUE(write_file_atomically(a + "/config.json", to_pretty_json(to_json(config))).ok());
  std::vector<TensorSpec> specs = stored_tensors(config);
  std::erase_if(specs, [](const TensorSpec& spec) { return spec.name.starts_with("mtp."); });
  specs.push_back({"mtp.0.main_proj.weight", DType::f8_e4m3, {4, 12}});
  specs.push_back({"something.else", DType::i16, {3}});
  specs.push_back({"something.packed", DType::u8, {6}, {"F6_E3M2", {8}}});
  auto writer = CheckpointWriter::create(a, specs, int64_t{1} << 40);
  for (const size_t i : writer->order()) {
    ASSERT_TRUE(writer->write(random_bytes(writer->next(), i, config.n_routed_experts)).ok());
  }
  ASSERT_TRUE(writer->finish().ok());
  convert(a, b, {});
  EXPECT_TRUE(tensors_of(b) == tensors_of(a));
}

TEST(Convert, RefusesWhatItCannotDo) {
  TemporaryDirectory work("refuses");
  const std::string a = work.path("a");
  fs::create_directories(a);
  ASSERT_TRUE(write_random_model(a, small_quant(), int64_t{1} << 40).ok());
  const auto message = [&](const std::string& from, const std::string& to,
                           const ConvertOptions& options) {
    const auto summary = convert_checkpoint(from, to, options);
    EXPECT_FALSE(summary.has_value());
    return summary.has_value() ? std::string() : summary.error().message();
  };
  EXPECT_NE(message(a, a, {}).find("without a model"), std::string::npos);
  EXPECT_NE(message(work.path("none"), work.path("b"), {}).find("none"), std::string::npos);
  ConvertOptions options;
  options.max_shard_bytes = 0;
  EXPECT_NE(message(a, work.path("b"), options).find("max shard bytes"), std::string::npos);
  options = {};
  options.precision = ConvertPrecision::f32;
  options.experts = ExpertTarget::fp8;
  EXPECT_NE(message(a, work.path("b"), options).find("experts"), std::string::npos);
}

TEST(Convert, AFullDiskLeavesNothingBehind) {
  TemporaryDirectory work("disk");
  const std::string a = work.path("a"), b = work.path("b");
  fs::create_directories(a);
  ASSERT_TRUE(write_random_model(a, small_quant(), int64_t{1} << 40).ok());
  std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit old {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  struct rlimit small = old;
  small.rlim_cur = 200'000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  ConvertOptions options;
  options.max_shard_bytes = 250'000;
  const auto summary = convert_checkpoint(a, b, options);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  EXPECT_FALSE(summary.has_value());
  EXPECT_TRUE(fs::is_empty(b));
}

}  // namespace
}  // namespace cachalot::formats
