// config.json to and from ModelConfig.
#include <fmt/format.h>

#include <cmath>

#include "formats/config_internal.h"
#include "formats/json_fields.h"

namespace cachalot::formats {
namespace {

// reference/forward 1.1, second column.
const std::vector<JsonFields::Alias>& reference_spellings() {
  static const std::vector<JsonFields::Alias> aliases = {
      {"hidden_size", "dim"},
      {"num_hidden_layers", "n_layers"},
      {"num_hash_layers", "n_hash_layers"},
      {"num_nextn_predict_layers", "n_mtp_layers"},
      {"num_attention_heads", "n_heads"},
      {"qk_rope_head_dim", "rope_head_dim"},
      {"sliding_window", "window_size"},
      {"num_experts_per_tok", "n_activated_experts"},
      {"moe_intermediate_size", "moe_inter_dim"},
      {"scoring_func", "score_func"},
      {"routed_scaling_factor", "route_scale"},
      {"rms_norm_eps", "norm_eps"},
      {"factor", "rope_factor"},
      {"original_max_position_embeddings", "original_seq_len"},
  };
  return aliases;
}

// Fields that the forward pass fixes; another value would be a different model.
void check_fixed_fields(JsonFields& fields) {
  std::string scoring = "sqrtsoftplus", topk = "noaux_tc", act = "silu";
  fields.choice("scoring_func", &scoring, {"sqrtsoftplus"});
  fields.choice("topk_method", &topk, {"noaux_tc"});
  fields.choice("hidden_act", &act, {"silu"});
  int64_t num_kv_heads = 1;
  fields.integer("num_key_value_heads", &num_kv_heads, 1, 1);
  for (const auto& [key, expected] : {std::pair("norm_topk_prob", true),
                                      {"tie_word_embeddings", false},
                                      {"attention_bias", false}}) {
    bool value = expected;
    fields.boolean(key, &value);
    if (value != expected) {
      fields.fail(key, expected ? "true" : "false", value ? "true" : "false",
                  StatusCode::unsupported);
    }
  }
}

void read_shapes(JsonFields& fields, ModelConfig& c) {
  fields.integer("vocab_size", &c.vocab_size, 1, kMaxVocab, true);
  fields.integer("hidden_size", &c.hidden_size, 1, kMaxHidden, true);
  fields.integer("num_hidden_layers", &c.num_hidden_layers, 1, kMaxLayers, true);
  fields.integer("num_attention_heads", &c.num_attention_heads, 1, kMaxHeads, true);
  fields.integer("head_dim", &c.head_dim, 1, kMaxHeadDim, true);
  fields.integer("q_lora_rank", &c.q_lora_rank, 1, kMaxRank, true);
  fields.integer("o_groups", &c.o_groups, 1, kMaxHeads, true);
  fields.integer("o_lora_rank", &c.o_lora_rank, 1, kMaxOutputRank, true);
  fields.integer("sliding_window", &c.sliding_window, 1, kMaxWindow, true);
  fields.integer("index_n_heads", &c.index_n_heads, 1, kMaxHeads, true);
  fields.integer("index_head_dim", &c.index_head_dim, 1, kMaxHeadDim, true);
  fields.integer("index_topk", &c.index_topk, 1, kMaxTokens, true);
  fields.integer("n_routed_experts", &c.n_routed_experts, 1, kMaxExperts, true);
  fields.integer("num_experts_per_tok", &c.num_experts_per_tok, 1, kMaxExpertsPerToken, true);
  fields.integer("moe_intermediate_size", &c.moe_intermediate_size, 1, kMaxExpertWidth, true);
  fields.integer("n_shared_experts", &c.n_shared_experts, 1, 1);
  fields.integer("hc_mult", &c.hc_mult, 1, kMaxStreams);
}

void read_layers(JsonFields& fields, ModelConfig& c) {
  fields.integer("num_hash_layers", &c.num_hash_layers, 0, kMaxLayers, true);
  fields.integer("qk_rope_head_dim", &c.qk_rope_head_dim, 2, kMaxHeadDim, true);
  if (fields.find("compress_ratios") == nullptr) {
    fields.fail("compress_ratios", "an array with one ratio per layer", "no such key");
  }
  fields.integers("compress_ratios", &c.compress_ratios, 0, kMaxRatio,
                  static_cast<size_t>(kMaxLayers + kMaxMtpLayers));
  // Missing: as many MTP blocks as compress_ratios has entries beyond the layers. The reference's
  // default is 1, with a list that then has one entry more.
  c.num_nextn_predict_layers =
      std::max<int64_t>(0, static_cast<int64_t>(c.compress_ratios.size()) - c.num_hidden_layers);
  fields.integer("num_nextn_predict_layers", &c.num_nextn_predict_layers, 0, kMaxMtpLayers);
}

void read_numbers(JsonFields& fields, ModelConfig& c) {
  fields.real("rope_theta", &c.rope_theta, 1.0, kMaxTheta);
  fields.real("compress_rope_theta", &c.compress_rope_theta, 1.0, kMaxTheta);
  fields.integer("max_position_embeddings", &c.max_position_embeddings, 1, kMaxTokens);
  fields.real("routed_scaling_factor", &c.routed_scaling_factor, 0.0, 1e6);
  fields.real("swiglu_limit", &c.swiglu_limit, 0.0, 1e30);
  fields.integer("hc_sinkhorn_iters", &c.hc_sinkhorn_iters, 1, kMaxSinkhornIters);
  fields.real("hc_eps", &c.hc_eps, 0.0, 1.0);
  fields.real("rms_norm_eps", &c.rms_norm_eps, 0.0, 1.0);
  fields.real("initializer_range", &c.initializer_range, 0.0, 1e6);
  fields.integer("bos_token_id", &c.bos_token_id, 0, kMaxVocab);
  fields.one_or_more("eos_token_id", &c.eos_token_id, 0, kMaxVocab, kMaxEndTokens);
  fields.text("torch_dtype", &c.torch_dtype);
}

void read_scale_format(JsonFields& fields, QuantizationConfig& quantization) {
  if (fields.find("scale_fmt") == nullptr) return;
  fields.choice("scale_fmt", &quantization.scale_fmt, {"ue8m0", "float"});
  if (quantization.scale_fmt == "float") quantization.scale_fmt.clear();
}

void read_quantization(JsonFields& fields, std::string_view origin, bool is_reference,
                       QuantizationConfig& quantization) {
  if (is_reference) {
    std::string dtype = "bf16";
    fields.choice("dtype", &dtype, {"fp8", "bf16"});
    quantization.present = dtype == "fp8";
    read_scale_format(fields, quantization);
    return;
  }
  const json::object* object = fields.object("quantization_config");
  if (object == nullptr) return;
  quantization.present = true;
  JsonFields inner(*object, origin, "quantization_config.");
  std::string method = "fp8", format = "e4m3", scheme = "dynamic";
  inner.choice("quant_method", &method, {"fp8"});
  inner.choice("fmt", &format, {"e4m3"});
  inner.choice("activation_scheme", &scheme, {"dynamic"});
  if (inner.find("scale_fmt") == nullptr) quantization.scale_fmt.clear();
  read_scale_format(inner, quantization);
  std::vector<int64_t> block = {128, 128};
  inner.integers("weight_block_size", &block, 1, 1 << 16, 2);
  if (block.size() != 2) {
    inner.fail("weight_block_size", "two integers", fmt::format("{}", block.size()));
  } else {
    quantization.block_rows = block[0];
    quantization.block_columns = block[1];
  }
  fields.add_errors(inner);
}

void read_expert_dtype(JsonFields& fields, std::string_view origin, ModelConfig& c) {
  // Missing in the first upload, whose experts were FP4 (reference/forward 1.1, notes).
  std::string name = c.quantization_config.present ? "fp4" : "none";
  const std::vector<std::string_view> names = {"fp4", "fp8", "none"};
  if (const json::object* object = fields.object("quantization_config")) {
    JsonFields inner(*object, origin, "quantization_config.");  // where transformers 5 has it
    inner.choice("expert_dtype", &name, names);
    fields.add_errors(inner);
  }
  fields.choice("expert_dtype", &name, names);
  c.expert_dtype = name == "fp4"   ? ExpertDType::fp4
                   : name == "fp8" ? ExpertDType::fp8
                                   : ExpertDType::none;
}

void read_ablations(JsonFields& fields, std::string_view origin, AblationConfig& ablation) {
  const json::object* object = fields.object("cachalot");
  if (object == nullptr) return;
  JsonFields inner(*object, origin, "cachalot.");
  for (const auto& [key, value] : *object) {
    const std::string_view name(key);
    if (name != "attention" && name != "ffn" && name != "residual" &&
        name != "dense_intermediate_size" && name != "kv_source_layer_ids" &&
        name != "index_source_layer_ids") {
      inner.fail(name.substr(0, 64),
                 "attention, ffn, residual, dense_intermediate_size, kv_source_layer_ids or "
                 "index_source_layer_ids",
                 "an unknown key");
    }
  }
  inner.texts("attention", &ablation.attention, kMaxLayers);
  inner.texts("ffn", &ablation.ffn, kMaxLayers);
  inner.texts("residual", &ablation.residual, kMaxLayers);
  inner.integer("dense_intermediate_size", &ablation.dense_intermediate_size, 0, kMaxDenseWidth);
  inner.integers("kv_source_layer_ids", &ablation.kv_source_layer_ids, 0, kMaxLayers - 1,
                 kMaxLayers);
  inner.integers("index_source_layer_ids", &ablation.index_source_layer_ids, 0, kMaxLayers - 1,
                 kMaxLayers);
  fields.add_errors(inner);
}

// Integral values as integers, as the published files have them.
json::value number(double value) {
  if (value == std::floor(value) && std::fabs(value) < 1e15) return static_cast<int64_t>(value);
  return value;
}

json::array array_of(const std::vector<int64_t>& values) {
  return json::array(values.begin(), values.end());
}

json::array array_of(const std::vector<std::string>& values) {
  json::array array;
  for (const std::string& value : values) array.emplace_back(value);
  return array;
}

json::object ablations_to_json(const AblationConfig& ablation) {
  json::object out;
  if (!ablation.attention.empty()) out["attention"] = array_of(ablation.attention);
  if (!ablation.ffn.empty()) out["ffn"] = array_of(ablation.ffn);
  if (!ablation.residual.empty()) out["residual"] = array_of(ablation.residual);
  if (ablation.dense_intermediate_size > 0)
    out["dense_intermediate_size"] = ablation.dense_intermediate_size;
  if (!ablation.kv_source_layer_ids.empty())
    out["kv_source_layer_ids"] = array_of(ablation.kv_source_layer_ids);
  if (!ablation.index_source_layer_ids.empty()) {
    out["index_source_layer_ids"] = array_of(ablation.index_source_layer_ids);
  }
  return out;
}

}  // namespace

Result<ModelConfig> parse_config(std::string_view text, std::string_view origin) {
  CACHALOT_ASSIGN_OR_RETURN(const json::value document, parse_json(text, origin));
  if (!document.is_object()) {
    return invalid_argument(
        fmt::format("{}: expected an object, found {}", origin, json_kind_name(document)));
  }
  return parse_config(document.get_object(), origin);
}

Result<ModelConfig> parse_config(const json::object& object, std::string_view origin) {
  const bool is_reference = object.contains("dim") && !object.contains("hidden_size");
  JsonFields fields(object, origin, {}, is_reference ? &reference_spellings() : nullptr);
  std::string model = "deepseek_v4";
  fields.choice("model_type", &model, {"deepseek_v4"});
  CACHALOT_RETURN_IF_ERROR(fields.status());  // of another model, the first thing to know
  ModelConfig config;
  check_fixed_fields(fields);
  read_shapes(fields, config);
  read_numbers(fields, config);
  if (is_transformers_layout(object)) {
    read_transformers_layout(fields, origin, config);
  } else {
    read_layers(fields, config);
  }
  if (is_reference) {
    read_rope_scaling(fields, config.rope_scaling);
  } else {
    read_rope(fields, origin, config);
  }
  read_quantization(fields, origin, is_reference, config.quantization_config);
  read_expert_dtype(fields, origin, config);
  read_ablations(fields, origin, config.cachalot);
  CACHALOT_RETURN_IF_ERROR(fields.status());
  CACHALOT_RETURN_IF_ERROR(validate_config(config, origin));
  return config;
}

json::object to_json(const ModelConfig& c) {
  json::object out;
  out["architectures"] = json::array{"DeepseekV4ForCausalLM"};
  out["model_type"] = "deepseek_v4";
  out["attention_bias"] = false;
  out["bos_token_id"] = c.bos_token_id;
  if (c.eos_token_id.size() == 1) {
    out["eos_token_id"] = c.eos_token_id[0];
  } else {
    out["eos_token_id"] = array_of(c.eos_token_id);
  }
  out["vocab_size"] = c.vocab_size;
  out["hidden_size"] = c.hidden_size;
  out["num_hidden_layers"] = c.num_hidden_layers;
  out["num_hash_layers"] = c.num_hash_layers;
  out["num_nextn_predict_layers"] = c.num_nextn_predict_layers;
  out["num_attention_heads"] = c.num_attention_heads;
  out["num_key_value_heads"] = 1;
  out["head_dim"] = c.head_dim;
  out["qk_rope_head_dim"] = c.qk_rope_head_dim;
  out["q_lora_rank"] = c.q_lora_rank;
  out["o_groups"] = c.o_groups;
  out["o_lora_rank"] = c.o_lora_rank;
  out["sliding_window"] = c.sliding_window;
  out["compress_ratios"] = array_of(c.compress_ratios);
  out["index_n_heads"] = c.index_n_heads;
  out["index_head_dim"] = c.index_head_dim;
  out["index_topk"] = c.index_topk;
  out["rope_theta"] = number(c.rope_theta);
  out["compress_rope_theta"] = number(c.compress_rope_theta);
  json::object& rope = out["rope_scaling"].emplace_object();
  rope["type"] = "yarn";
  rope["factor"] = number(c.rope_scaling.factor);
  rope["original_max_position_embeddings"] = c.rope_scaling.original_max_position_embeddings;
  rope["beta_fast"] = number(c.rope_scaling.beta_fast);
  rope["beta_slow"] = number(c.rope_scaling.beta_slow);
  out["max_position_embeddings"] = c.max_position_embeddings;
  out["n_routed_experts"] = c.n_routed_experts;
  out["n_shared_experts"] = c.n_shared_experts;
  out["num_experts_per_tok"] = c.num_experts_per_tok;
  out["moe_intermediate_size"] = c.moe_intermediate_size;
  out["scoring_func"] = "sqrtsoftplus";
  out["topk_method"] = "noaux_tc";
  out["norm_topk_prob"] = true;
  out["routed_scaling_factor"] = c.routed_scaling_factor;
  out["swiglu_limit"] = c.swiglu_limit;
  out["hidden_act"] = "silu";
  out["hc_mult"] = c.hc_mult;
  out["hc_sinkhorn_iters"] = c.hc_sinkhorn_iters;
  out["hc_eps"] = c.hc_eps;
  out["rms_norm_eps"] = c.rms_norm_eps;
  out["initializer_range"] = c.initializer_range;
  out["tie_word_embeddings"] = false;
  out["torch_dtype"] = c.torch_dtype;
  if (c.quantization_config.present) {
    out["expert_dtype"] = expert_dtype_name(c.expert_dtype);
    json::object& quantization = out["quantization_config"].emplace_object();
    quantization["activation_scheme"] = "dynamic";
    quantization["fmt"] = "e4m3";
    quantization["quant_method"] = "fp8";
    if (!c.quantization_config.scale_fmt.empty())
      quantization["scale_fmt"] = c.quantization_config.scale_fmt;
    quantization["weight_block_size"] =
        json::array{c.quantization_config.block_rows, c.quantization_config.block_columns};
  }
  if (json::object ablations = ablations_to_json(c.cachalot); !ablations.empty()) {
    out["cachalot"] = std::move(ablations);
  }
  return out;
}

}  // namespace cachalot::formats
