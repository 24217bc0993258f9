// What one field cannot show alone: divisibility, sums, and the layer kinds that follow from
// several fields.
#include <fmt/format.h>

#include <bit>
#include <cmath>

#include "formats/config_internal.h"

namespace cachalot::formats {
namespace {

Status wrong(std::string_view origin, std::string_view key, std::string_view expected,
             std::string_view found) {
  return invalid_argument(
      fmt::format("{}: {}: expected {}, found {}", origin, key, expected, found));
}

template <typename T>
struct Range {
  std::string_view key;
  T value;
  T min;
  T max;
};

template <typename T>
Status check_range(const Range<T>& range, std::string_view origin) {
  if (range.value >= range.min && range.value <= range.max) return {};  // false for NaN
  return wrong(origin, range.key, fmt::format("a value from {} to {}", range.min, range.max),
               fmt::format("{}", range.value));
}

// Again what the parser checks, since a config may be built in code.
std::vector<Status> check_ranges(const ModelConfig& c, std::string_view origin) {
  const Range<int64_t> ranges[] = {
      {"vocab_size", c.vocab_size, 1, kMaxVocab},
      {"hidden_size", c.hidden_size, 1, kMaxHidden},
      {"num_hidden_layers", c.num_hidden_layers, 1, kMaxLayers},
      {"num_hash_layers", c.num_hash_layers, 0, c.num_hidden_layers},
      {"num_nextn_predict_layers", c.num_nextn_predict_layers, 0, kMaxMtpLayers},
      {"num_attention_heads", c.num_attention_heads, 1, kMaxHeads},
      {"head_dim", c.head_dim, 2, kMaxHeadDim},
      {"qk_rope_head_dim", c.qk_rope_head_dim, 2, c.head_dim},
      {"q_lora_rank", c.q_lora_rank, 1, kMaxRank},
      {"o_groups", c.o_groups, 1, c.num_attention_heads},
      {"o_lora_rank", c.o_lora_rank, 1, kMaxOutputRank},
      {"sliding_window", c.sliding_window, 1, kMaxWindow},
      {"index_n_heads", c.index_n_heads, 1, kMaxHeads},
      {"index_head_dim", c.index_head_dim, 1, kMaxHeadDim},
      {"index_topk", c.index_topk, 1, kMaxTokens},
      {"n_routed_experts", c.n_routed_experts, 1, kMaxExperts},
      {"n_routed_experts times layers", c.n_routed_experts * c.num_all_layers(), 1,
       kMaxLayerExperts},
      {"num_experts_per_tok", c.num_experts_per_tok, 1,
       std::min(c.n_routed_experts, kMaxExpertsPerToken)},
      {"n_shared_experts", c.n_shared_experts, 1, 1},
      {"moe_intermediate_size", c.moe_intermediate_size, 1, kMaxExpertWidth},
      {"hc_mult", c.hc_mult, 1, kMaxStreams},
      {"hc_sinkhorn_iters", c.hc_sinkhorn_iters, 1, kMaxSinkhornIters},
      {"max_position_embeddings", c.max_position_embeddings, 1, kMaxTokens},
      {"rope_scaling.original_max_position_embeddings",
       c.rope_scaling.original_max_position_embeddings, 1, kMaxTokens},
      {"bos_token_id", c.bos_token_id, 0, c.vocab_size - 1},
      {"quantization_config.weight_block_size[0]", c.quantization_config.block_rows, 1, 1 << 16},
      {"quantization_config.weight_block_size[1]", c.quantization_config.block_columns, 1, 1 << 16},
      {"cachalot.dense_intermediate_size", c.cachalot.dense_intermediate_size, 0, kMaxDenseWidth},
  };
  const Range<double> reals[] = {
      {"rope_theta", c.rope_theta, 1.0, 1e12},
      {"compress_rope_theta", c.compress_rope_theta, 1.0, 1e12},
      {"rope_scaling.factor", c.rope_scaling.factor, 1.0, 1e6},
      {"rope_scaling.beta_fast", c.rope_scaling.beta_fast, 1e-6, 1e9},
      {"rope_scaling.beta_slow", c.rope_scaling.beta_slow, 1e-6, 1e9},
      {"routed_scaling_factor", c.routed_scaling_factor, 0.0, 1e6},
      {"swiglu_limit", c.swiglu_limit, 0.0, 1e30},
      {"hc_eps", c.hc_eps, 0.0, 1.0},
      {"rms_norm_eps", c.rms_norm_eps, 0.0, 1.0},
      {"initializer_range", c.initializer_range, 0.0, 1e6},
  };
  std::vector<Status> errors;
  const auto check = [&](const auto& range) {
    if (Status status = check_range(range, origin); !status.ok())
      errors.push_back(std::move(status));
    return errors.empty();
  };
  for (const auto& range : ranges) check(range);
  for (const auto& range : reals) check(range);
  if (c.eos_token_id.empty())
    errors.push_back(wrong(origin, "eos_token_id", "one id or more", "none"));
  for (const int64_t id : c.eos_token_id) {
    if (!check(Range<int64_t>{"eos_token_id", id, 0, c.vocab_size - 1})) break;
  }
  return errors;
}

std::vector<Status> check_divisibility(const ModelConfig& c, std::string_view origin) {
  std::vector<Status> errors;
  const auto fail = [&](std::string_view key, std::string_view expected, std::string_view found) {
    errors.push_back(wrong(origin, key, expected, found));
  };
  if (c.num_attention_heads % c.o_groups != 0) {
    fail("num_attention_heads", fmt::format("a multiple of o_groups = {}", c.o_groups),
         fmt::format("{}", c.num_attention_heads));
  }
  if (c.qk_rope_head_dim % 2 != 0) {
    fail("qk_rope_head_dim", "an even number", fmt::format("{}", c.qk_rope_head_dim));
  }
  const std::string& scale_fmt = c.quantization_config.scale_fmt;
  if (!scale_fmt.empty() && scale_fmt != "ue8m0") {
    fail("quantization_config.scale_fmt", "ue8m0 or none", scale_fmt);
  }
  if (c.expert_dtype != ExpertDType::none && !c.quantization_config.present) {
    fail("quantization_config",
         fmt::format("one, since expert_dtype is {}", expert_dtype_name(c.expert_dtype)), "none");
  }
  if (c.expert_dtype == ExpertDType::fp4) {
    for (const auto& [key, value] : {std::pair("hidden_size", c.hidden_size),
                                     {"moe_intermediate_size", c.moe_intermediate_size}}) {
      if (value % 32 != 0) {
        fail(key, "a multiple of 32 for FP4 experts", fmt::format("{}", value));
      }
    }
  }
  return errors;
}

Status check_ratios(const ModelConfig& c, std::string_view origin) {
  const auto count = static_cast<int64_t>(c.compress_ratios.size());
  if (count < c.num_hidden_layers || count > c.num_hidden_layers + kMaxMtpLayers) {
    return wrong(origin, "compress_ratios",
                 fmt::format("{} entries, one per layer, and up to {} for MTP blocks",
                             c.num_hidden_layers, kMaxMtpLayers),
                 fmt::format("{}", count));
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t ratio = c.compress_ratios[i];
    const bool is_mtp = i >= c.num_hidden_layers;
    if (ratio < 0 || ratio == 1 || ratio > kMaxRatio || (is_mtp && ratio != 0)) {
      return wrong(origin, fmt::format("compress_ratios[{}]", i),
                   is_mtp ? fmt::format("0, behind the {} layers", c.num_hidden_layers)
                          : fmt::format("0, or 2 to {}", kMaxRatio),
                   fmt::format("{}", ratio));
    }
    if (ratio == kCsaRatio && (!std::has_single_bit(static_cast<uint64_t>(c.index_head_dim)) ||
                               c.index_head_dim < c.qk_rope_head_dim)) {
      return wrong(
          origin, "index_head_dim",
          fmt::format("a power of two, at least qk_rope_head_dim = {}", c.qk_rope_head_dim),
          fmt::format("{}", c.index_head_dim));
    }
  }
  return {};
}

// The override of layer i from a list of one value or one per layer; "default" where there is none.
std::string_view override_of(const std::vector<std::string>& list, int64_t i) {
  if (list.empty()) return "default";
  return list.size() == 1 ? list[0] : list[static_cast<size_t>(i)];
}

Status check_list(const std::vector<std::string>& list, std::string_view key, int64_t layers,
                  std::string_view origin, std::initializer_list<std::string_view> allowed) {
  const auto count = static_cast<int64_t>(list.size());
  if (count > 1 && count != layers) {
    return wrong(origin, key, fmt::format("one value or {}", layers), fmt::format("{}", count));
  }
  for (const std::string& value : list) {
    bool known = false;
    for (std::string_view name : allowed) known = known || value == name;
    if (!known) {
      std::string names;
      for (std::string_view name : allowed)
        names += (names.empty() ? "" : " or ") + std::string(name);
      return wrong(origin, key, names, value.substr(0, 48));
    }
  }
  return {};
}

Status check_ablation_lists(const ModelConfig& c, std::string_view origin) {
  const int64_t layers = c.num_hidden_layers;
  const AblationConfig& a = c.cachalot;
  CACHALOT_RETURN_IF_ERROR(
      check_list(a.attention, "cachalot.attention", layers, origin, {"default", "full"}));
  CACHALOT_RETURN_IF_ERROR(check_list(a.ffn, "cachalot.ffn", layers, origin, {"default", "dense"}));
  CACHALOT_RETURN_IF_ERROR(check_list(a.residual, "cachalot.residual", layers, origin,
                                      {"default", "unconstrained", "plain"}));
  for (const auto& [key, list] : {std::pair("cachalot.kv_source_layer_ids", &a.kv_source_layer_ids),
                                  {"cachalot.index_source_layer_ids", &a.index_source_layer_ids}}) {
    const auto count = static_cast<int64_t>(list->size());
    if (count != 0 && count != layers) {
      return wrong(origin, key, fmt::format("{} entries", layers), fmt::format("{}", count));
    }
  }
  return {};
}

// A source comes no later than its reader, is its own source, and holds rows of the reader's kind.
Status check_source(const std::vector<LayerConfig>& layers, int64_t i, int64_t source,
                    bool of_index, std::string_view origin) {
  const LayerConfig& layer = layers[static_cast<size_t>(i)];
  const std::string key =
      fmt::format("cachalot.{}_source_layer_ids[{}]", of_index ? "index" : "kv", i);
  if (source < 0 || source > i)
    return wrong(origin, key, fmt::format("0 to {}", i), fmt::format("{}", source));
  if (source == i) return {};
  const LayerConfig& from = layers[static_cast<size_t>(source)];
  if (from.attention != layer.attention || from.ratio != layer.ratio) {
    return wrong(origin, key,
                 fmt::format("a layer of kind {}, ratio {}", attention_kind_name(layer.attention),
                             layer.ratio),
                 fmt::format("layer {} of kind {}, ratio {}", source,
                             attention_kind_name(from.attention), from.ratio));
  }
  if (of_index && layer.attention != AttentionKind::csa) {
    return wrong(origin, key, fmt::format("{}: only CSA layers have an index", i),
                 fmt::format("{}", source));
  }
  const int64_t next = of_index ? from.index_source : from.kv_source;
  if (next != source) {
    return wrong(origin, key, "a layer that is its own source",
                 fmt::format("layer {}, whose source is {}", source, next));
  }
  return {};
}

}  // namespace

Result<std::vector<LayerConfig>> derive_layers(const ModelConfig& c, std::string_view origin) {
  CACHALOT_RETURN_IF_ERROR(check_ablation_lists(c, origin));
  std::vector<LayerConfig> layers(static_cast<size_t>(c.num_all_layers()));
  int64_t num_plain = 0;
  for (int64_t i = 0; i < c.num_all_layers(); ++i) {
    LayerConfig& layer = layers[static_cast<size_t>(i)];
    layer.kv_source = layer.index_source = i;
    layer.is_mtp = i >= c.num_hidden_layers;
    // MTP blocks follow the residual kind, since they continue the streams; all else is as
    // published.
    const std::string_view residual =
        override_of(c.cachalot.residual, std::min(i, c.num_hidden_layers - 1));
    if (residual == "plain") {
      layer.residual = ResidualKind::plain;
      ++num_plain;
    } else if (residual == "unconstrained") {
      layer.residual = ResidualKind::unconstrained;
    }
    if (layer.is_mtp) continue;
    layer.ratio = c.compress_ratios[static_cast<size_t>(i)];
    layer.attention = layer.ratio == 0           ? AttentionKind::window
                      : layer.ratio == kCsaRatio ? AttentionKind::csa
                                                 : AttentionKind::hca;
    if (override_of(c.cachalot.attention, i) == "full") {
      layer.attention = AttentionKind::full;
      layer.ratio = 1;
    }
    layer.ffn = i < c.num_hash_layers ? FfnKind::hash : FfnKind::routed;
    if (override_of(c.cachalot.ffn, i) == "dense") layer.ffn = FfnKind::dense;
  }
  // One stream or hc_mult of them: the streams run through all layers.
  if (num_plain != 0 && num_plain != c.num_all_layers()) {
    return wrong(origin, "cachalot.residual", "plain for all layers or none",
                 fmt::format("{} of {}", num_plain, c.num_all_layers()));
  }
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    LayerConfig& layer = layers[static_cast<size_t>(i)];
    if (!c.cachalot.kv_source_layer_ids.empty()) {
      const int64_t source = c.cachalot.kv_source_layer_ids[static_cast<size_t>(i)];
      CACHALOT_RETURN_IF_ERROR(check_source(layers, i, source, false, origin));
      layer.kv_source = source;
    }
    if (!c.cachalot.index_source_layer_ids.empty()) {
      const int64_t source = c.cachalot.index_source_layer_ids[static_cast<size_t>(i)];
      CACHALOT_RETURN_IF_ERROR(check_source(layers, i, source, true, origin));
      layer.index_source = source;
    }
  }
  return layers;
}

Status validate_config(const ModelConfig& config, std::string_view origin) {
  // What numbers say of each other, once each is one; then what layers they make.
  CACHALOT_RETURN_IF_ERROR(joined(check_ranges(config, origin)));
  std::vector<Status> errors = check_divisibility(config, origin);
  if (Status ratios = check_ratios(config, origin); !ratios.ok())
    errors.push_back(std::move(ratios));
  CACHALOT_RETURN_IF_ERROR(joined(errors));
  auto layers = derive_layers(config, origin);
  return layers.has_value() ? Status() : layers.error();
}

}  // namespace cachalot::formats
