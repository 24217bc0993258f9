#include "formats/weight_source.h"

#include <gtest/gtest.h>

#include "base/test_data.h"
#include "formats/test_checkpoint.h"

namespace cachalot::formats {
namespace {

using tensor::DType;

ModelConfig golden(const std::string& name) {
  return load_config(test_data("formats/config/golden-") + name + ".json").value();
}

// One tensor of a checkpoint replaced, dropped (empty name) or added, and the loader's answer.
Status validate_changed(const ModelConfig& config,
                        const std::function<void(std::vector<TensorSpec>*)>& change) {
  TemporaryDirectory directory("changed");
  std::vector<TensorSpec> specs = stored_tensors(config);
  change(&specs);
  auto writer = CheckpointWriter::create(directory.path(), specs, int64_t{1} << 40);
  CACHALOT_RETURN_IF_ERROR(writer.has_value() ? Status() : writer.error());
  for (const size_t i : writer->order()) {
    CACHALOT_RETURN_IF_ERROR(
        writer->write(random_bytes(writer->next(), i, config.n_routed_experts)));
  }
  CACHALOT_RETURN_IF_ERROR(writer->finish());
  CACHALOT_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::open(directory.path()));
  CACHALOT_ASSIGN_OR_RETURN(const WeightSource source,
                            WeightSource::create(std::move(checkpoint), config));
  return source.validate();
}

TensorSpec& spec_of(std::vector<TensorSpec>* specs, std::string_view name) {
  for (TensorSpec& spec : *specs) {
    if (spec.name == name) return spec;
  }
  ADD_FAILURE() << name;
  return specs->front();
}

TEST(WeightSource, ReadsTheQuantisedLayout) {
  TemporaryDirectory directory("quant");
  const ModelConfig config = golden("quant");
  ASSERT_TRUE(write_random_model(directory.path(), config, 1 << 20).ok());
  const auto source = WeightSource::open(directory.path());
  ASSERT_TRUE(source.has_value()) << source.error().message();
  EXPECT_TRUE(source.value().validate().ok());
  EXPECT_TRUE(source.value().unknown_names().empty());
  EXPECT_EQ(source.value().num_mtp_blocks(), 1);
  EXPECT_GT(source.value().checkpoint().files().size(), 5u);

  const auto wq_b = source.value().matrix("layers.1.attn.wq_b.weight").value();
  EXPECT_EQ(wq_b.rows, 1024);
  EXPECT_EQ(wq_b.columns, 128);
  EXPECT_EQ(wq_b.block_rows, 128);
  EXPECT_EQ(wq_b.scale.shape, (tensor::Shape{8, 1}));
  const auto w2 = source.value().matrix("mtp.0.ffn.experts.7.w2.weight").value();
  EXPECT_TRUE(w2.is_fp4());
  EXPECT_EQ(w2.rows, 256);
  EXPECT_EQ(w2.columns, 128);
  EXPECT_EQ(w2.block_rows, 1);
  EXPECT_EQ(w2.block_columns, 32);
  EXPECT_EQ(w2.scale.shape, (tensor::Shape{256, 4}));
  EXPECT_EQ(source.value().floats("layers.0.hc_attn_scale").value().size(), 3u);
  EXPECT_EQ(source.value().expert_ids("layers.0.ffn.gate.tid2eid").value().size(), 1024u);
  EXPECT_FALSE(source.value().matrix("layers.9.attn.wq_b.weight").has_value());
  EXPECT_FALSE(source.value().matrix("norm.weight").has_value());
}

TEST(WeightSource, ReadsBaseAndUnquantised) {
  for (const bool is_base : {true, false}) {
    TemporaryDirectory directory("base");
    ModelConfig config = golden("quant");
    if (is_base) {
      config.expert_dtype = ExpertDType::fp8;
      config.quantization_config.scale_fmt.clear();
    } else {
      config = golden("tiny");
      config.torch_dtype = "float32";
    }
    ASSERT_TRUE(write_random_model(directory.path(), config, int64_t{1} << 40).ok());
    const auto source = WeightSource::open(directory.path());
    ASSERT_TRUE(source.has_value()) << source.error().message();
    EXPECT_TRUE(source.value().validate().ok()) << source.value().validate().message();
    const auto w1 = source.value().matrix("layers.1.ffn.experts.3.w1.weight").value();
    EXPECT_EQ(w1.weight.dtype, is_base ? DType::f8_e4m3 : DType::f32);
    EXPECT_EQ(w1.has_scale(), is_base);
    if (is_base) {
      EXPECT_EQ(w1.scale.dtype, DType::f32);
      EXPECT_EQ(w1.scale.shape, (tensor::Shape{1, 2}));
    }
  }
}

TEST(WeightSource, StackedExperts) {
  ModelConfig config = golden("tiny");
  config.torch_dtype = "float32";
  TemporaryDirectory directory("stacked");
  const int64_t f = config.moe_intermediate_size, d = config.hidden_size,
                e = config.n_routed_experts;
  std::vector<float> gate_up(static_cast<size_t>(e * 2 * f * d)),
      down(static_cast<size_t>(e * d * f));
  for (size_t i = 0; i < gate_up.size(); ++i) gate_up[i] = static_cast<float>(i);
  for (size_t i = 0; i < down.size(); ++i) down[i] = -static_cast<float>(i);
  ASSERT_TRUE(
      write_safetensors(directory.path("model.safetensors"),
                        {{"model.layers.1.mlp.experts.gate_up_proj", DType::f32, {e, 2 * f, d}},
                         {"model.layers.1.mlp.experts.down_proj", DType::f32, {e, d, f}}},
                        {std::as_bytes(std::span(gate_up)), std::as_bytes(std::span(down))})
          .ok());
  const auto source = WeightSource::create(Checkpoint::open(directory.path()).value(), config);
  ASSERT_TRUE(source.has_value());
  EXPECT_TRUE(source.value().unknown_names().empty());
  auto first = [&](const char* name) {
    return tensor::to_floats(source.value().matrix(name).value().weight)[0];
  };
  EXPECT_EQ(first("layers.1.ffn.experts.2.w1.weight"), static_cast<float>(2 * 2 * f * d));
  EXPECT_EQ(first("layers.1.ffn.experts.2.w3.weight"), static_cast<float>(2 * 2 * f * d + f * d));
  EXPECT_EQ(first("layers.1.ffn.experts.2.w2.weight"), -static_cast<float>(2 * d * f));
  EXPECT_FALSE(source.value().contains("layers.0.ffn.experts.2.w1.weight"));
}

TEST(WeightSource, StackedExpertsOfWrongShape) {
  const ModelConfig config = golden("tiny");
  TemporaryDirectory directory("stacked-wrong");
  for (const tensor::Shape& shape : {tensor::Shape{7, 96, 96}, tensor::Shape{8, 95, 96},
                                     tensor::Shape{96, 96}, tensor::Shape{8, 96, 0}}) {
    const std::vector<std::byte> bytes(static_cast<size_t>(tensor::num_elements(shape)));
    ASSERT_TRUE(write_safetensors(directory.path("model.safetensors"),
                                  {{"model.layers.1.mlp.experts.gate_up_proj", DType::i8, shape}},
                                  {bytes})
                    .ok());
    const auto source = WeightSource::create(Checkpoint::open(directory.path()).value(), config);
    const auto w1 = source.value().matrix("layers.1.ffn.experts.7.w1.weight");
    ASSERT_FALSE(w1.has_value());
    EXPECT_NE(w1.error().message().find("gate_up_proj"), std::string::npos) << w1.error().message();
  }
}

void expect_wrong(const Status& status, std::initializer_list<std::string_view> needles) {
  ASSERT_FALSE(status.ok());
  for (std::string_view needle : needles) {
    EXPECT_NE(status.message().find(needle), std::string::npos)
        << needle << " in: " << status.message();
  }
}

TEST(WeightSource, ErrorsNameTensorFileExpectedAndFound) {
  const ModelConfig config = golden("quant");
  expect_wrong(validate_changed(config, [](auto* s) { spec_of(s, "norm.weight").shape = {255}; }),
               {"model.safetensors: tensor norm.weight", "floats [256]", "BF16 [255]"});
  expect_wrong(
      validate_changed(config, [](auto* s) { spec_of(s, "norm.weight").name = "nrom.weight"; }),
      {"norm.weight", "no such tensor"});
  expect_wrong(validate_changed(config,
                                [](auto* s) {
                                  spec_of(s, "layers.1.attn.wq_a.scale").shape = {2, 1};
                                }),
               {"layers.1.attn.wq_a.scale", "[1, 2]", "F8_E8M0 [2, 1]"});
  expect_wrong(
      validate_changed(config, [](auto* s) { spec_of(s, "layers.1.attn.wq_a.scale").name = "x"; }),
      {"layers.1.attn.wq_a.scale", "no such tensor"});
  expect_wrong(validate_changed(config,
                                [](auto* s) {
                                  spec_of(s, "layers.1.ffn.experts.0.w1.weight").dtype = DType::u8;
                                }),
               {"layers.1.ffn.experts.0.w1.weight", "U8 [128, 128]"});
  expect_wrong(
      validate_changed(
          config, [](auto* s) { spec_of(s, "layers.1.ffn.experts.0.w1.scale").dtype = DType::u8; }),
      {"layers.1.ffn.experts.0.w1.scale", "F8_E8M0 [128, 8]", "U8 [128, 8]"});
  expect_wrong(
      validate_changed(config,
                       [](auto* s) { spec_of(s, "layers.0.ffn.gate.tid2eid").dtype = DType::f32; }),
      {"tid2eid", "integers [512, 2]", "F32 [512, 2]"});
  expect_wrong(validate_changed(config,
                                [](auto* s) {
                                  s->push_back({"model.norm.weight", DType::bf16, {256}});
                                }),
               {"norm.weight", "expected it once", "model.norm.weight"});
  // An attention matrix is never FP4.
  expect_wrong(validate_changed(config,
                                [](auto* s) {
                                  spec_of(s, "layers.1.attn.wq_a.weight") = {
                                      "layers.1.attn.wq_a.weight", DType::i8, {128, 128}};
                                }),
               {"layers.1.attn.wq_a.weight", "I8 [128, 128]"});
  ModelConfig fp8 = config;
  fp8.expert_dtype = ExpertDType::fp8;
  expect_wrong(validate_changed(fp8, [&](auto* s) { *s = stored_tensors(config); }),
               {"expert_dtype fp4", "found fp8"});
}

// Beside the weights they are no matter; in place of one they are named.
TEST(WeightSource, DTypesThatAreOnlyStored) {
  const ModelConfig config = golden("quant");
  EXPECT_TRUE(validate_changed(config, [](auto* specs) {
                specs->push_back({"extra.a", DType::u8, {6}, {"F6_E2M3", {2, 4}}});
                specs->push_back({"extra.b", DType::u8, {16}, {"C64", {2}}});
              }).ok());
  expect_wrong(validate_changed(config,
                                [](auto* specs) {
                                  TensorSpec& spec = spec_of(specs, "norm.weight");
                                  const int64_t bytes = spec.num_bytes();
                                  spec = {spec.name, DType::u8, {bytes}, {"U16", spec.shape}};
                                }),
               {"norm.weight", "found U16"});
  // FP4 experts as F4, which counts codes.
  EXPECT_TRUE(validate_changed(config, [](auto* specs) {
                for (TensorSpec& spec : *specs) {
                  if (spec.dtype != DType::i8) continue;
                  spec.stored = {"F4", spec.shape};
                  spec.stored.shape.back() *= 2;
                }
              }).ok());
}

TEST(WeightSource, TablesWithIdsThatAreNoExperts) {
  ModelConfig config = golden("tiny");
  TemporaryDirectory directory("table");
  std::vector<int64_t> ids(1024, 7);
  ids[1000] = 8;
  ASSERT_TRUE(write_safetensors(directory.path("model.safetensors"),
                                {{"layers.0.ffn.gate.tid2eid", DType::i64, {512, 2}}},
                                {std::as_bytes(std::span(ids))})
                  .ok());
  const auto source = WeightSource::create(Checkpoint::open(directory.path()).value(), config);
  expect_wrong(source.value().expert_ids("layers.0.ffn.gate.tid2eid").error(),
               {"0 to 7", "8 at element 1000"});
}

TEST(WeightSource, MissingMtpBlocksAreNotCounted) {
  const ModelConfig config = golden("quant");
  EXPECT_TRUE(validate_changed(config, [](auto* s) {
                std::erase_if(*s,
                              [](const TensorSpec& spec) { return spec.name.starts_with("mtp."); });
              }).ok());
}

TEST(Inventory, Ablations) {
  ModelConfig config = golden("tiny");
  auto has = [&](const char* name) {
    for (const TensorInfo& info : tensor_inventory(config)) {
      if (info.name == name) return true;
    }
    return false;
  };
  EXPECT_TRUE(has("layers.2.attn.compressor.ape"));
  EXPECT_TRUE(has("layers.4.attn.indexer.wq_b.weight"));
  EXPECT_TRUE(has("hc_head_fn"));
  config.cachalot.attention = {"full"};
  config.cachalot.ffn = {"dense"};
  config.cachalot.residual = {"plain"};
  EXPECT_FALSE(has("layers.2.attn.compressor.ape"));
  EXPECT_FALSE(has("hc_head_fn"));
  EXPECT_FALSE(has("layers.2.hc_attn_fn"));
  EXPECT_TRUE(has("layers.2.ffn.w1.weight"));
  EXPECT_FALSE(has("layers.2.ffn.gate.weight"));
  config = golden("tiny");
  config.cachalot.kv_source_layer_ids = {0, 1, 2, 3, 2, 5};
  config.cachalot.index_source_layer_ids = {0, 1, 2, 3, 2, 5};
  EXPECT_FALSE(has("layers.4.attn.indexer.wq_b.weight"));
  EXPECT_FALSE(has("layers.4.attn.wkv.weight"));
  EXPECT_FALSE(has("layers.4.attn.compressor.ape"));
  EXPECT_TRUE(has("layers.4.attn.wq_a.weight"));
}

}  // namespace
}  // namespace cachalot::formats
