#include "engine/token_work.h"

#include <gtest/gtest.h>

#include "formats/accounting.h"

namespace cachalot::engine {
namespace {

// Every kind of layer, hash and routed, at widths that the official formats allow.
constexpr std::string_view kConfig =
    R"({"model_type": "deepseek_v4", "vocab_size": 96, "hidden_size": 128,
 "moe_intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128,
 "qk_rope_head_dim": 64, "q_lora_rank": 128, "o_groups": 2, "o_lora_rank": 128, "n_routed_experts": 4, "n_shared_experts": 1,
 "num_experts_per_tok": 2, "routed_scaling_factor": 1.5, "num_hash_layers": 1, "sliding_window": 128, "index_n_heads": 2,
 "index_head_dim": 64, "index_topk": 64, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "swiglu_limit": 10.0,
 "rope_theta": 10000, "compress_rope_theta": 160000, "rope_scaling": {"type": "yarn", "factor": 16,
 "original_max_position_embeddings": 65536, "beta_fast": 32, "beta_slow": 1}, "compress_ratios": [0, 4, 128, 4],
 "num_nextn_predict_layers": 0, "max_position_embeddings": 1048576, "rms_norm_eps": 1e-6, "torch_dtype": "bfloat16",
 "expert_dtype": "fp4", "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
 "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}})";

TEST(TokenWork, IsWhatTheFormulasSayAtEveryContext) {
  const formats::ModelConfig config = formats::parse_config(kConfig, "test").value();
  const formats::ParameterCount parameters =
      formats::count_parameters(config, formats::tensor_inventory(config));
  ModelOptions options;
  options.threads = 1;
  const auto model = LoadedModel::random(config, 1, options).value();
  for (const int64_t context : {512, 4096, 131072, 1048576}) {
    const TokenWork work = count_token_work(*model, context).value();
    EXPECT_EQ(work.layers.fp8_equivalent_flops() + work.head.fp8_equivalent_flops(),
              formats::token_flops(config, parameters, static_cast<double>(context)).total())
        << context;
    EXPECT_EQ(work.cache_bytes,
              formats::kv_bytes_per_token(config, tensor::KvFormat::fp8, tensor::IndexFormat::fp4));
  }
}

}  // namespace
}  // namespace cachalot::engine
