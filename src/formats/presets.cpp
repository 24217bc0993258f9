#include "formats/presets.h"

#include <fmt/format.h>

namespace cachalot::formats {
namespace {

// What Flash and Pro share.
ModelConfig common() {
  ModelConfig c;
  c.vocab_size = 129280;
  c.num_hash_layers = 3;
  c.num_nextn_predict_layers = 1;
  c.head_dim = 512;
  c.qk_rope_head_dim = 64;
  c.o_lora_rank = 1024;
  c.sliding_window = 128;
  c.index_n_heads = 64;
  c.index_head_dim = 128;
  c.rope_scaling.factor = 16;
  c.num_experts_per_tok = 6;
  c.expert_dtype = ExpertDType::fp4;
  c.quantization_config.present = true;
  return c;
}

// `first` twice, then 4 and 128 in turn, ending with 4; and 0 for the MTP block.
std::vector<int64_t> ratios(int64_t first, int64_t num_layers) {
  std::vector<int64_t> out = {first, first};
  for (int64_t i = 2; i < num_layers; ++i) out.push_back(i % 2 == 0 ? 4 : 128);
  out.push_back(0);
  return out;
}

}  // namespace

ModelConfig flash_config() {
  ModelConfig c = common();
  c.hidden_size = 4096;
  c.num_hidden_layers = 43;
  c.num_attention_heads = 64;
  c.q_lora_rank = 1024;
  c.o_groups = 8;
  c.compress_ratios = ratios(0, c.num_hidden_layers);
  c.index_topk = 512;
  c.n_routed_experts = 256;
  c.moe_intermediate_size = 2048;
  c.routed_scaling_factor = 1.5;
  return c;
}

ModelConfig pro_config() {
  ModelConfig c = common();
  c.hidden_size = 7168;
  c.num_hidden_layers = 61;
  c.num_attention_heads = 128;
  c.q_lora_rank = 1536;
  c.o_groups = 16;
  c.compress_ratios = ratios(128, c.num_hidden_layers);
  c.index_topk = 1024;
  c.n_routed_experts = 384;
  c.moe_intermediate_size = 3072;
  c.routed_scaling_factor = 2.5;
  return c;
}

ModelConfig nano_config() {
  ModelConfig c = common();
  c.vocab_size = 4096;
  c.hidden_size = 256;
  c.num_hidden_layers = 6;
  c.num_hash_layers = 1;
  c.num_attention_heads = 8;
  c.head_dim = 64;
  c.qk_rope_head_dim = 32;
  c.q_lora_rank = 128;
  c.o_groups = 2;
  c.o_lora_rank = 128;
  c.sliding_window = 64;
  c.compress_ratios = {0, 4, 128, 4, 128, 4, 0};
  c.index_n_heads = 8;
  c.index_head_dim = 32;
  c.index_topk = 32;
  c.n_routed_experts = 16;
  c.num_experts_per_tok = 2;
  c.moe_intermediate_size = 128;
  c.routed_scaling_factor = 1.5;
  c.rope_scaling.original_max_position_embeddings = 4096;
  c.max_position_embeddings = 65536;
  return c;
}

ModelConfig mini_config() {
  ModelConfig c = common();
  c.vocab_size = 32768;
  c.hidden_size = 768;
  c.num_hidden_layers = 12;
  c.num_hash_layers = 2;
  c.num_attention_heads = 12;
  c.head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.q_lora_rank = 384;
  c.o_groups = 4;
  c.o_lora_rank = 256;
  c.compress_ratios = ratios(0, c.num_hidden_layers);
  c.index_n_heads = 16;
  c.index_head_dim = 64;
  c.index_topk = 128;
  c.n_routed_experts = 16;
  c.num_experts_per_tok = 2;
  c.moe_intermediate_size = 384;
  c.routed_scaling_factor = 1.5;
  c.rope_scaling.original_max_position_embeddings = 16384;
  c.max_position_embeddings = 262144;
  return c;
}

std::vector<std::string> preset_names() { return {"nano", "mini", "flash", "pro"}; }

Result<ModelConfig> preset_config(std::string_view name) {
  if (name == "nano") return nano_config();
  if (name == "mini") return mini_config();
  if (name == "flash") return flash_config();
  if (name == "pro") return pro_config();
  return invalid_argument(fmt::format("preset: expected {}, found \"{}\"", kPresetNames, name));
}

}  // namespace cachalot::formats
