// config.json of a DeepSeek-V4 model: what the model is, field by field, with the checkpoint's
// spellings.
// Source  reference/forward 1.1, 1.2, 1.3; the ablation keys are our own (docs/formats/config.md).
//
// Reads every published variant (Flash, Pro, their Base siblings), the small config of the
// reference code (inference/config.json, recognised by its key "dim"), and what transformers 5
// saves (recognised by its key "layer_types"). Fields that give a tensor its shape are required;
// the others default to the value that Flash and Pro share. Unknown keys are ignored, except under
// "cachalot".
// Errors  wrong type or range: invalid_argument; a known field with a value nothing here computes:
//         unsupported. Both name the file, the key, what was expected and what was found.
// Every dimension is limited so that element counts, byte counts and FLOPs of the whole model fit
// in int64_t.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"
#include "base/status.h"

namespace cachalot::formats {

enum class AttentionKind {
  window,  // ratio 0: the last sliding_window keys only
  // ratio 4: window, and the index_topk overlapped compressed entries that the indexer chooses
  csa,
  hca,  // any other ratio >= 2: window, and all visible compressed entries
  full  // ablation: every key, uncompressed (ratio 1, no window part)
};
enum class FfnKind { routed, hash, dense };             // dense: ablation
enum class ResidualKind { mhc, unconstrained, plain };  // the last two: ablations
enum class ExpertDType { none, fp4, fp8 };              // none: experts are not quantised

std::string_view attention_kind_name(AttentionKind kind);
std::string_view ffn_kind_name(FfnKind kind);
std::string_view residual_kind_name(ResidualKind kind);
std::string_view expert_dtype_name(ExpertDType dtype);  // "none", "fp4", "fp8"

struct LayerConfig {
  AttentionKind attention = AttentionKind::window;
  int64_t ratio = 0;         // tokens per compressed entry; 0 = no entries, 1 = full attention
  int64_t kv_source = 0;     // layer whose KV rows are read; by default the layer itself
  int64_t index_source = 0;  // layer whose selection is used (CSA); by default the layer itself
  FfnKind ffn = FfnKind::routed;
  ResidualKind residual = ResidualKind::mhc;
  bool is_mtp = false;
};

struct RopeScaling {
  double factor = 1.0;  // 1 = no YaRN
  int64_t original_max_position_embeddings = 65536;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
};

struct QuantizationConfig {
  bool present = false;             // false: nothing is quantised
  std::string scale_fmt = "ue8m0";  // "ue8m0", or empty where scales are plain floats (F32)
  int64_t block_rows = 128;         // weight_block_size
  int64_t block_columns = 128;
};

// The "cachalot" object. Lists are empty (no override), or hold one value for all layers, or one
// per decoder layer; "default" means what the published fields say.
struct AblationConfig {
  std::vector<std::string> attention;  // "default" | "full"
  std::vector<std::string> ffn;        // "default" | "dense"
  std::vector<std::string> residual;   // "default" | "unconstrained" | "plain" (all layers or none)
  int64_t dense_intermediate_size = 0;  // 0: the width that costs a token what its experts would
  std::vector<int64_t> kv_source_layer_ids;     // empty, or one per decoder layer
  std::vector<int64_t> index_source_layer_ids;  // empty, or one per decoder layer
};

struct ModelConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_hash_layers = 0;
  int64_t num_nextn_predict_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t q_lora_rank = 0;
  int64_t o_groups = 0;
  int64_t o_lora_rank = 0;
  int64_t sliding_window = 0;
  // num_hidden_layers entries; more are 0, for MTP blocks that may be there or not.
  std::vector<int64_t> compress_ratios;
  int64_t index_n_heads = 0;
  int64_t index_head_dim = 0;
  int64_t index_topk = 0;
  double rope_theta = 10000.0;
  double compress_rope_theta = 160000.0;
  RopeScaling rope_scaling;
  int64_t max_position_embeddings = 1048576;
  int64_t n_routed_experts = 0;
  int64_t n_shared_experts = 1;
  int64_t num_experts_per_tok = 0;
  int64_t moe_intermediate_size = 0;
  double routed_scaling_factor = 1.0;
  double swiglu_limit = 10.0;  // 0 = no clamp
  int64_t hc_mult = 4;
  int64_t hc_sinkhorn_iters = 20;
  double hc_eps = 1e-6;
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  int64_t bos_token_id = 0;
  std::vector<int64_t> eos_token_id = {1};  // any of them ends a text; at least one
  std::string torch_dtype = "bfloat16";
  ExpertDType expert_dtype = ExpertDType::none;
  QuantizationConfig quantization_config;
  AblationConfig cachalot;

  // Derived.
  int64_t heads_dim() const { return num_attention_heads * head_dim; }
  int64_t hc_dim() const { return hc_mult * hidden_size; }  // columns of hc_*_fn
  // Rows of hc_attn_fn: pre, post, comb.
  int64_t hc_rows() const { return (2 + hc_mult) * hc_mult; }
  int64_t num_all_layers() const { return num_hidden_layers + num_nextn_predict_layers; }
  // Width of a dense (ablation) FFN: dense_intermediate_size, or (num_experts_per_tok +
  // n_shared_experts) experts' width.
  int64_t dense_width() const;
};

// `origin` names the text, or the object, in errors: "origin: key: expected ..., found ...".
Result<ModelConfig> parse_config(std::string_view text, std::string_view origin);
Result<ModelConfig> parse_config(const json::object& object, std::string_view origin);
// `path`: a config.json, or a directory that holds one.
Result<ModelConfig> load_config(const std::string& path);
// Everything parse_config refuses, for configs built in code: ranges, divisibility, layer kinds.
Status validate_config(const ModelConfig& config, std::string_view origin);
// One per decoder layer, then one per MTP block (window attention, routed). CHECKs that the config
// is valid.
std::vector<LayerConfig> layer_configs(const ModelConfig& config);
// The public spelling, whatever was read. parse_config of its text gives an equal config.
json::object to_json(const ModelConfig& config);

}  // namespace cachalot::formats
