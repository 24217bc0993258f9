#include "formats/config.h"

#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>
#include <filesystem>
#include <limits>

#include "base/file.h"
#include "base/test_data.h"
#include "formats/generation_config.h"
#include "formats/json_text.h"
#include "formats/presets.h"

namespace cachalot::formats {
namespace {

std::string data(const std::string& name) { return test_data("formats/config/") + name; }

json::object document(const std::string& name) {
  return parse_json(read_text_file(data(name)).value(), name).value().get_object();
}

Result<ModelConfig> parse(const json::object& object) {
  return parse_config(json::serialize(object), "config.json");
}

// The message names the key, what was expected and what was found.
void expect_error(const json::object& c, std::string_view key, std::string_view found) {
  const auto result = parse(c);
  ASSERT_FALSE(result.has_value()) << key;
  const std::string& message = result.error().message();
  EXPECT_NE(message.find("config.json: "), std::string::npos) << message;
  EXPECT_NE(message.find(key), std::string::npos) << message;
  EXPECT_NE(message.find("expected"), std::string::npos) << message;
  EXPECT_NE(message.find(found), std::string::npos) << message;
}

// All that is wrong at once, a line each and a key once, in objects within too.
TEST(Config, EveryErrorIsTold) {
  json::object c = document("v4-flash.json");
  c["hidden_size"] = "wide";
  c["scoring_func"] = "soft\nmax";
  c["compress_ratios"] = json::array{-1, "x"};
  c["rope_scaling"].get_object()["factor"] = 0;
  c["quantization_config"].get_object()["fmt"] = 7;
  c["cachalot"] = json::object{{"atention", "full"}, {"ffn", 3}};
  std::string expected;
  for (const char* line :
       {"scoring_func: expected sqrtsoftplus, found soft\\u000amax",
        "hidden_size: expected an integer from 1 to 262144, found \"wide\"",
        "compress_ratios: expected an integer from 0 to 1048576, found -1",
        "rope_scaling.factor: expected a number from 1 to 1000000, found 0",
        "quantization_config.fmt: expected a string, found 7",
        "cachalot.atention: expected attention, ffn, residual, dense_intermediate_size, "
        "kv_source_layer_ids or index_source_layer_ids, found an unknown key",
        "cachalot.ffn: expected a string or an array of strings, found 3"})
    expected += (expected.empty() ? "config.json: " : "\nconfig.json: ") + std::string(line);
  EXPECT_EQ(parse(c).error().message(), expected);

  ModelConfig built = parse(document("v4-flash.json")).value();
  built.head_dim = 0;
  built.hc_eps = -1;
  const std::string message = validate_config(built, "built").message();
  EXPECT_NE(message.find("built: head_dim: "), std::string::npos) << message;
  EXPECT_NE(message.find("\nbuilt: hc_eps: "), std::string::npos) << message;
}

TEST(Config, EndTokensMayBeSeveral) {
  json::object c = document("v4-flash.json");
  EXPECT_EQ(parse(c).value().eos_token_id, std::vector<int64_t>{1});
  c["eos_token_id"] = json::array{1, 13};
  EXPECT_EQ(parse(c).value().eos_token_id, (std::vector<int64_t>{1, 13}));
  EXPECT_EQ(parse(to_json(parse(c).value())).value().eos_token_id, (std::vector<int64_t>{1, 13}));
  c["eos_token_id"] = json::array{};
  expect_error(c, "eos_token_id", "empty");
  c["eos_token_id"] = json::array{1, 129280};
  expect_error(c, "eos_token_id", "129280");
}

TEST(Config, EndTokensOfBothFiles) {
  const std::string directory = testing::TempDir() + "cachalot-end-tokens";
  std::filesystem::create_directories(directory);
  const std::string path = directory + "/generation_config.json";
  const ModelConfig c = parse(document("v4-flash.json")).value();
  std::filesystem::remove(path);
  EXPECT_EQ(end_tokens(directory, c).value(), std::vector<int32_t>{1});
  const std::pair<std::string, std::vector<int32_t>> cases[] = {
      {R"({"eos_token_id": [1, 39, 39]})", {1, 39}},
      {R"({"eos_token_id": 7})", {1, 7}},
      {"\xEF\xBB\xBF{\"eos_token_id\": null}", {1}},
      {R"({"temperature": 1.0})", {1}}};
  for (const auto& [text, expected] : cases) {
    ASSERT_TRUE(write_file_atomically(path, text).ok());
    EXPECT_EQ(end_tokens(directory, c).value(), expected) << text;
  }
  for (const char* text : {"[]", R"({"eos_token_id": 129280})", R"({"eos_token_id": "1"})"}) {
    ASSERT_TRUE(write_file_atomically(path, text).ok());
    const auto found = end_tokens(directory, c);
    ASSERT_FALSE(found.has_value()) << text;
    EXPECT_NE(found.error().message().find("generation_config.json"), std::string::npos);
  }
  std::filesystem::remove_all(directory);
}

// What newer writers call it: dropped, the model gives other text.
TEST(Config, YarnUnderRopeParameters) {
  const json::object published = document("v4-flash.json");
  const ModelConfig expected = parse(published).value();
  json::object c = published;
  json::object rope = c["rope_scaling"].get_object();
  c.erase("rope_scaling");
  rope["rope_type"] = "yarn";
  rope["rope_theta"] = 10000;
  const auto expect_same = [&](const json::object& config) {
    const auto found = parse(config);
    ASSERT_TRUE(found.has_value()) << found.error().message();
    EXPECT_EQ(to_json(*found), to_json(expected));
  };
  c["rope_parameters"] = rope;
  expect_same(c);
  rope.erase("type");
  rope.erase("rope_type");  // the factor says it
  c["rope_parameters"] = rope;
  expect_same(c);
  json::object compress = rope;
  compress["rope_theta"] = 160000;
  c["rope_parameters"] = json::object{{"main", {{"rope_type", "default"}, {"rope_theta", 10000}}},
                                      {"compress", compress}};
  expect_same(c);
  c["rope_scaling"] = published.at("rope_scaling");
  expect_same(c);

  c["rope_scaling"].get_object()["factor"] = 32;
  expect_error(c, "rope_scaling.factor", "32");
  c.erase("rope_scaling");
  c["rope_theta"] = 20000;
  expect_error(c, "rope_theta", "20000");
  c["rope_theta"] = 10000;
  c["compress_rope_theta"] = 20000;
  expect_error(c, "compress_rope_theta", "20000");
  c = published;
  c["rope_scaling"].get_object()["rope_theta"] = 20000;
  expect_error(c, "rope_theta", "20000");
  c.erase("rope_theta");
  EXPECT_EQ(parse(c).value().rope_theta, 20000);
  c = published;
  c["rope_scaling"] = json::object{{"beta_fast", 32}};
  expect_error(c, "rope_scaling.factor", "no such key");
  c = published;
  c["rope_scaling"].get_object()["rope_type"] = "default";
  expect_error(c, "rope_scaling.type", "yarn");
  c["rope_scaling"].get_object()["rope_type"] = "yarn";
  expect_same(c);
  c["rope_parameters"] = json::object{{"rope_type", "default"}, {"rope_theta", 10000}};
  expect_error(c, "rope_scaling.factor", "16");
}

TEST(Config, RatiosForMtpBlocksThatAreNotThere) {
  json::object c = document("v4-flash.json");
  c["num_nextn_predict_layers"] = 0;
  EXPECT_EQ(parse(c).value().num_nextn_predict_layers, 0);
  EXPECT_EQ(layer_configs(parse(c).value()).size(), 43u);
  EXPECT_TRUE(parse(to_json(parse(c).value())).has_value());
  c["num_nextn_predict_layers"] = 3;  // fewer ratios than blocks
  EXPECT_EQ(layer_configs(parse(c).value()).size(), 46u);
  c["num_nextn_predict_layers"] = 0;
  c["compress_ratios"].as_array()[43] = 4;
  expect_error(c, "compress_ratios[43]", "found 4");
  c["compress_ratios"].as_array().resize(42);
  expect_error(c, "compress_ratios", "42");
  c["compress_ratios"].as_array().resize(60, 0);
  expect_error(c, "compress_ratios", "60");
}

TEST(Config, Flash) {
  const ModelConfig c = load_config(data("v4-flash.json")).value();
  EXPECT_EQ(c.hidden_size, 4096);
  EXPECT_EQ(c.num_hidden_layers, 43);
  EXPECT_EQ(c.num_nextn_predict_layers, 1);
  EXPECT_EQ(c.expert_dtype, ExpertDType::fp4);
  EXPECT_EQ(c.quantization_config.scale_fmt, "ue8m0");
  EXPECT_EQ(c.quantization_config.block_rows, 128);
  EXPECT_EQ(c.rope_scaling.factor, 16);
  EXPECT_EQ(c.rope_scaling.beta_fast, 32);
  EXPECT_EQ(c.hc_eps, 1e-6);
  const auto layers = layer_configs(c);
  ASSERT_EQ(layers.size(), 44u);
  int64_t counts[4] = {};
  for (const LayerConfig& layer : layers) ++counts[static_cast<int>(layer.attention)];
  EXPECT_EQ(counts[0], 3);  // two decoder layers and the MTP block
  EXPECT_EQ(counts[1], 21);
  EXPECT_EQ(counts[2], 20);
  EXPECT_EQ(layers[2].ffn, FfnKind::hash);
  EXPECT_EQ(layers[3].ffn, FfnKind::routed);
  EXPECT_TRUE(layers[43].is_mtp);
  EXPECT_EQ(layers[42].kv_source, 42);
}

TEST(Config, Pro) {
  const ModelConfig c = load_config(data("v4-pro.json")).value();
  EXPECT_EQ(c.routed_scaling_factor, 2.5);
  const auto layers = layer_configs(c);
  EXPECT_EQ(layers.size(), 62u);
  EXPECT_EQ(layers[0].attention, AttentionKind::hca);
  EXPECT_EQ(layers[0].ratio, 128);
  EXPECT_EQ(layers[60].attention, AttentionKind::csa);
}

TEST(Config, TheReferenceSpellingIsTheSameModel) {
  const json::object flash = to_json(load_config(data("v4-flash.json")).value());
  json::object reference = to_json(load_config(data("reference-flash.json")).value());
  EXPECT_EQ(json::serialize(reference), json::serialize(flash));
}

TEST(Config, TheReferenceSpellingIsCheckedToo) {
  json::object c = document("reference-flash.json");
  c["scale_fmt"] = "ue9m0";
  expect_error(c, "scale_fmt", "ue9m0");
  c = document("reference-flash.json");
  c["dtype"] = "int8";
  expect_error(c, "dtype", "int8");
  c = document("reference-flash.json");
  c["moe_inter_dim"] = 1e300;
  expect_error(c, "moe_inter_dim", "E300");
}

// Saved by transformers 5.24 from golden-tiny.json.
TEST(Config, TransformersLayoutIsTheSameModel) {
  json::object golden = to_json(load_config(data("golden-tiny.json")).value());
  golden["torch_dtype"] = "float32";
  json::object saved = to_json(load_config(data("transformers5-tiny.json")).value());
  EXPECT_EQ(to_pretty_json(saved), to_pretty_json(golden));
}

TEST(Config, TransformersLayoutHasNoMtpBlocks) {
  json::object c = document("transformers5-tiny.json");
  c["num_nextn_predict_layers"] = 1;
  EXPECT_EQ(parse(c).value().num_nextn_predict_layers, 0);
}

TEST(Config, TransformersLayoutDerivesTheRotaryWidth) {
  json::object c = document("transformers5-tiny.json");
  c.erase("qk_rope_head_dim");
  EXPECT_EQ(parse(c).value().qk_rope_head_dim, 16);
  c.erase("partial_rotary_factor");
  expect_error(c, "qk_rope_head_dim", "no such key");
}

TEST(Config, TransformersLayoutKeepsRates) {
  json::object c = document("transformers5-tiny.json");
  json::object& rates = c["compress_rates"].get_object();
  rates["heavily_compressed_attention"] = 64;
  EXPECT_EQ(parse(c).value().compress_ratios, (std::vector<int64_t>{0, 0, 4, 64, 4, 0}));
  rates["heavily_compressed_attention"] = 4;
  expect_error(c, "compress_rates.heavily_compressed_attention", "4");
  rates["heavily_compressed_attention"] = 128;
  rates["compressed_sparse_attention"] = 8;
  expect_error(c, "compress_rates.compressed_sparse_attention", "8");
}

TEST(Config, TransformersLayoutIsCheckedToo) {
  const json::object good = document("transformers5-tiny.json");
  json::object c = good;
  c["layer_types"].get_array().pop_back();
  expect_error(c, "layer_types", "5");
  c = good;
  c["layer_types"].get_array()[1] = "full_attention";
  expect_error(c, "layer_types", "full_attention");
  c = good;
  c["mlp_layer_types"].get_array()[5] = "hash_moe";
  expect_error(c, "mlp_layer_types", "after moe");
  c = good;
  c.erase("rope_parameters");
  expect_error(c, "rope_parameters", "no such key");
  c = good;
  json::object& rope = c["rope_parameters"].get_object();
  rope["compress"].get_object()["attention_factor"] = 1.25;
  expect_error(c, "rope_parameters.compress.attention_factor", "1.25");
  rope["compress"].get_object()["attention_factor"] = 1.0;
  rope["compress"].get_object()["factor"] = 0.5;
  expect_error(c, "rope_parameters.compress.factor", "5E-1");
  rope["compress"].get_object()["rope_type"] = "default";
  EXPECT_EQ(parse(c).value().rope_scaling.factor, 1);
  rope["main"].get_object()["rope_type"] = "yarn";
  expect_error(c, "rope_parameters.main.rope_type", "yarn");
}

TEST(Config, TransformersKeepsTheExpertFormatWithTheQuantization) {
  json::object c = document("v4-flash.json");
  c["quantization_config"].get_object()["expert_dtype"] = "fp8";
  c.erase("expert_dtype");
  EXPECT_EQ(parse(c).value().expert_dtype, ExpertDType::fp8);
}

TEST(Config, PresetsAreThePublishedFiles) {
  EXPECT_EQ(json::serialize(to_json(flash_config())),
            json::serialize(to_json(load_config(data("v4-flash.json")).value())));
  EXPECT_EQ(json::serialize(to_json(pro_config())),
            json::serialize(to_json(load_config(data("v4-pro.json")).value())));
}

TEST(Config, GoldenVariants) {
  EXPECT_EQ(load_config(data("golden-tiny.json")).value().expert_dtype, ExpertDType::none);
  EXPECT_EQ(load_config(data("golden-tiny.json")).value().num_nextn_predict_layers, 0);
  EXPECT_EQ(load_config(data("golden-clamp.json")).value().swiglu_limit, 0.35);
  EXPECT_EQ(load_config(data("golden-clamp.json")).value().hc_eps, 1e-6);
  EXPECT_EQ(load_config(data("golden-quant.json")).value().compress_ratios.size(), 6u);
  EXPECT_EQ(load_config(data("golden-quant-dense.json")).value().index_topk, 128);
  EXPECT_EQ(load_config(data("golden-peer.json")).value().rope_scaling.factor, 16);
}

TEST(Config, WritesWhatItReads) {
  for (const char* name : {"v4-flash.json", "v4-pro.json", "golden-tiny.json", "golden-clamp.json",
                           "golden-quant.json", "golden-peer.json"}) {
    const ModelConfig first = load_config(data(name)).value();
    const std::string text = to_pretty_json(to_json(first));
    const ModelConfig second = parse_config(text, name).value();
    EXPECT_EQ(to_pretty_json(to_json(second)), text);
    EXPECT_EQ(second.swiglu_limit, first.swiglu_limit);
    EXPECT_EQ(second.rope_scaling.factor, first.rope_scaling.factor);
    EXPECT_EQ(second.expert_dtype, first.expert_dtype);
  }
}

TEST(Config, ExpertDType) {
  json::object c = document("v4-flash.json");
  c.erase("expert_dtype");
  EXPECT_EQ(parse(c).value().expert_dtype, ExpertDType::fp4);  // the first upload
  c["expert_dtype"] = "fp8";
  c["quantization_config"].as_object().erase("scale_fmt");
  EXPECT_EQ(parse(c).value().expert_dtype, ExpertDType::fp8);  // Base
  EXPECT_EQ(parse(c).value().quantization_config.scale_fmt, "");
  c.erase("quantization_config");
  EXPECT_NE(parse(c).error().message().find("quantization_config"), std::string::npos);
  c.erase("expert_dtype");
  EXPECT_EQ(parse(c).value().expert_dtype, ExpertDType::none);
}

TEST(Config, MtpCountFollowsTheRatiosWhenMissing) {
  json::object c = document("v4-flash.json");
  c.erase("num_nextn_predict_layers");
  EXPECT_EQ(parse(c).value().num_nextn_predict_layers, 1);
  c["compress_ratios"].as_array().resize(43);
  EXPECT_EQ(parse(c).value().num_nextn_predict_layers, 0);
  c["num_nextn_predict_layers"] = 1;
  EXPECT_EQ(layer_configs(parse(c).value()).size(), 44u);
}

TEST(Config, UnknownKeysAreIgnoredAndNullIsAbsent) {
  json::object c = document("v4-flash.json");
  c["some_future_key"] = {{"a", 1}};
  c["hc_eps"] = nullptr;
  EXPECT_EQ(parse(c).value().hc_eps, 1e-6);
}

TEST(Config, WrongTypesAndRanges) {
  const json::object good = document("v4-flash.json");
  const json::value bad_integers[] = {json::value(-1),
                                      json::value(0),
                                      json::value(1e300),
                                      json::value("4096"),
                                      json::value(4096.5),
                                      json::value(true),
                                      json::array{1},
                                      json::object{},
                                      json::value(std::numeric_limits<int64_t>::max()),
                                      json::value(std::numeric_limits<int64_t>::min()),
                                      json::value(std::numeric_limits<uint64_t>::max())};
  for (const char* key :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim",
        "qk_rope_head_dim", "q_lora_rank", "o_groups", "o_lora_rank", "sliding_window",
        "index_n_heads", "index_head_dim", "index_topk", "n_routed_experts", "num_experts_per_tok",
        "moe_intermediate_size", "hc_mult", "hc_sinkhorn_iters", "max_position_embeddings"}) {
    for (const json::value& bad : bad_integers) {
      json::object c = good;
      c[key] = bad;
      expect_error(c, key, "found");
    }
  }
  for (const char* key :
       {"rope_theta", "compress_rope_theta", "hc_eps", "rms_norm_eps", "routed_scaling_factor"}) {
    for (const json::value& bad :
         {json::value(-1), json::value(1e300), json::value("1"), json::value(false)}) {
      json::object c = good;
      c[key] = bad;
      expect_error(c, key, "found");
    }
  }
  for (const char* key : {"vocab_size", "compress_ratios", "num_hash_layers"}) {
    json::object c = good;
    c.erase(key);
    expect_error(c, key, "no such key");
  }
}

TEST(Config, LongNumbersAndDeepNestingAreErrors) {
  EXPECT_FALSE(parse_config(R"({"vocab_size": 1e999})", "x").has_value());
  EXPECT_FALSE(parse_config(R"({"vocab_size": NaN})", "x").has_value());
  EXPECT_FALSE(parse_config("{\"vocab_size\": " + std::string(5000, '9') + "}", "x").has_value());
  EXPECT_FALSE(parse_config(std::string(100000, '['), "x").has_value());
  EXPECT_FALSE(parse_config("[]", "x").has_value());
  EXPECT_FALSE(parse_config("", "x").has_value());
}

TEST(Config, CombinationsThatCannotBe) {
  const json::object good = document("v4-flash.json");
  auto with = [&](const char* key, json::value value) {
    json::object c = good;
    c[key] = std::move(value);
    return c;
  };
  expect_error(with("o_groups", 7), "num_attention_heads", "64");
  expect_error(with("qk_rope_head_dim", 65), "qk_rope_head_dim", "65");
  expect_error(with("qk_rope_head_dim", 514), "qk_rope_head_dim", "514");
  expect_error(with("num_experts_per_tok", 257), "num_experts_per_tok", "257");
  expect_error(with("num_hash_layers", 44), "num_hash_layers", "44");
  expect_error(with("num_hidden_layers", 41), "compress_ratios[41]", "128");
  expect_error(with("index_head_dim", 96), "index_head_dim", "96");
  expect_error(with("hidden_size", 4104), "hidden_size", "4104");
  expect_error(with("scoring_func", "sigmoid"), "scoring_func", "sigmoid");
  expect_error(with("tie_word_embeddings", true), "tie_word_embeddings", "true");
  expect_error(with("model_type", "deepseek_v41"), "model_type", "deepseek_v41");
  expect_error(with("eos_token_id", 129280), "eos_token_id", "129280");
  json::object c = good;
  c["compress_ratios"].as_array()[5] = 1;
  expect_error(c, "compress_ratios[5]", "1");
  c = good;
  c["compress_ratios"].as_array()[43] = 4;
  expect_error(c, "compress_ratios[43]", "4");
  c = good;
  c["rope_scaling"].as_object()["type"] = "linear";
  expect_error(c, "rope_scaling.type", "linear");
  c = good;
  c["quantization_config"].as_object()["weight_block_size"] = json::array{128};
  expect_error(c, "quantization_config.weight_block_size", "1");
}

TEST(Config, AblationKinds) {
  json::object c = document("golden-tiny.json");
  c["cachalot"] = {{"attention", "full"}, {"ffn", "dense"}, {"residual", "plain"}};
  ModelConfig config = parse(c).value();
  for (const LayerConfig& layer : layer_configs(config)) {
    EXPECT_EQ(layer.attention, AttentionKind::full);
    EXPECT_EQ(layer.ratio, 1);
    EXPECT_EQ(layer.ffn, FfnKind::dense);
    EXPECT_EQ(layer.residual, ResidualKind::plain);
  }
  EXPECT_EQ(config.dense_width(), 3 * 48);
  c["cachalot"] = {{"attention", {"default", "full", "default", "default", "default", "default"}},
                   {"residual", "unconstrained"},
                   {"kv_source_layer_ids", {0, 1, 2, 3, 2, 0}},
                   {"index_source_layer_ids", {0, 1, 2, 3, 2, 5}}};
  config = parse(c).value();
  const auto layers = layer_configs(config);
  EXPECT_EQ(layers[0].attention, AttentionKind::window);
  EXPECT_EQ(layers[1].attention, AttentionKind::full);
  EXPECT_EQ(layers[4].kv_source, 2);
  EXPECT_EQ(layers[4].index_source, 2);
  EXPECT_EQ(layers[5].kv_source, 0);
  EXPECT_EQ(layers[5].residual, ResidualKind::unconstrained);
  EXPECT_EQ(json::serialize(to_json(parse(to_json(config)).value())),
            json::serialize(to_json(config)));
}

TEST(Config, AblationErrors) {
  const json::object good = document("golden-tiny.json");
  auto with = [&](json::object ablation) {
    json::object c = good;
    c["cachalot"] = std::move(ablation);
    return c;
  };
  expect_error(with({{"attenton", "full"}}), "cachalot.attenton", "unknown key");
  expect_error(with({{"attention", "none"}}), "cachalot.attention", "none");
  expect_error(with({{"attention", {"full", "full"}}}), "cachalot.attention", "2");
  expect_error(with({{"residual", {"plain", "default", "plain", "plain", "plain", "plain"}}}),
               "cachalot.residual", "5 of 6");
  expect_error(with({{"kv_source_layer_ids", {0, 0, 2, 3, 5, 5}}}), "kv_source_layer_ids[4]", "5");
  expect_error(with({{"kv_source_layer_ids", {0, 0, 2, 2, 4, 5}}}), "kv_source_layer_ids[3]",
               "kind csa");
  expect_error(with({{"kv_source_layer_ids", {0, 0, 2, 3, 4, 1}}}), "kv_source_layer_ids[5]",
               "source is 0");
  expect_error(with({{"index_source_layer_ids", {0, 0, 2, 3, 4, 5}}}), "index_source_layer_ids[1]",
               "only CSA");
}

TEST(Config, ConfigsBuiltInCodeAreChecked) {
  ModelConfig c = load_config(data("golden-tiny.json")).value();
  EXPECT_TRUE(validate_config(c, "code").ok());
  c.rope_theta = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(validate_config(c, "code").ok());
}

}  // namespace
}  // namespace cachalot::formats
