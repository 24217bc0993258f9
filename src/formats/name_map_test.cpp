#include "formats/name_map.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/test_data.h"
#include "formats/inventory.h"

namespace cachalot::formats {
namespace {

using Stack = CanonicalName::Stack;

std::string data(const std::string& name) { return test_data("formats/config/") + name; }

// reference/forward 7.4, row by row.
TEST(NameMap, TransformersNames) {
  const std::pair<const char*, const char*> rows[] = {
      {"embed.weight", "model.embed_tokens.weight"},
      {"head.weight", "lm_head.weight"},
      {"norm.weight", "model.norm.weight"},
      {"hc_head_fn", "model.hc_head.hc_fn"},
      {"hc_head_scale", "model.hc_head.hc_scale"},
      {"layers.12.attn_norm.weight", "model.layers.12.input_layernorm.weight"},
      {"layers.1.ffn_norm.weight", "model.layers.1.post_attention_layernorm.weight"},
      {"layers.1.hc_attn_base", "model.layers.1.attn_hc.base"},
      {"layers.1.hc_ffn_fn", "model.layers.1.ffn_hc.fn"},
      {"layers.1.hc_attn_scale", "model.layers.1.attn_hc.scale"},
      {"layers.1.hc_ffn_scale", "model.layers.1.ffn_hc.scale"},
      {"layers.1.attn.wq_a.weight", "model.layers.1.self_attn.q_a_proj.weight"},
      {"layers.1.attn.wq_a.scale", "model.layers.1.self_attn.q_a_proj.weight_scale_inv"},
      {"layers.1.attn.wq_b.weight", "model.layers.1.self_attn.q_b_proj.weight"},
      {"layers.1.attn.wkv.weight", "model.layers.1.self_attn.kv_proj.weight"},
      {"layers.1.attn.wo_a.weight", "model.layers.1.self_attn.o_a_proj.weight"},
      {"layers.1.attn.wo_b.weight", "model.layers.1.self_attn.o_b_proj.weight"},
      {"layers.1.attn.q_norm.weight", "model.layers.1.self_attn.q_a_norm.weight"},
      {"layers.1.attn.kv_norm.weight", "model.layers.1.self_attn.kv_norm.weight"},
      {"layers.1.attn.attn_sink", "model.layers.1.self_attn.sinks"},
      {"layers.1.attn.compressor.wkv.weight", "model.layers.1.self_attn.compressor.kv_proj.weight"},
      {"layers.1.attn.compressor.wgate.weight",
       "model.layers.1.self_attn.compressor.gate_proj.weight"},
      {"layers.1.attn.compressor.ape", "model.layers.1.self_attn.compressor.position_bias"},
      {"layers.1.attn.compressor.norm.weight",
       "model.layers.1.self_attn.compressor.kv_norm.weight"},
      {"layers.1.attn.indexer.wq_b.scale",
       "model.layers.1.self_attn.compressor.indexer.q_b_proj.weight_scale_inv"},
      {"layers.1.attn.indexer.weights_proj.weight",
       "model.layers.1.self_attn.compressor.indexer.scorer.weights_proj.weight"},
      {"layers.1.attn.indexer.compressor.wkv.weight",
       "model.layers.1.self_attn.compressor.indexer.kv_proj.weight"},
      {"layers.1.attn.indexer.compressor.wgate.weight",
       "model.layers.1.self_attn.compressor.indexer.gate_proj.weight"},
      {"layers.1.attn.indexer.compressor.ape",
       "model.layers.1.self_attn.compressor.indexer.position_bias"},
      {"layers.1.attn.indexer.compressor.norm.weight",
       "model.layers.1.self_attn.compressor.indexer.kv_norm.weight"},
      {"layers.1.ffn.gate.weight", "model.layers.1.mlp.gate.weight"},
      {"layers.1.ffn.gate.bias", "model.layers.1.mlp.gate.e_score_correction_bias"},
      {"layers.1.ffn.gate.tid2eid", "model.layers.1.mlp.gate.tid2eid"},
      {"layers.1.ffn.shared_experts.w1.weight",
       "model.layers.1.mlp.shared_experts.gate_proj.weight"},
      {"layers.1.ffn.shared_experts.w2.weight",
       "model.layers.1.mlp.shared_experts.down_proj.weight"},
      {"layers.1.ffn.shared_experts.w3.scale",
       "model.layers.1.mlp.shared_experts.up_proj.weight_scale_inv"},
      {"mtp.0.e_proj.weight", "mtp.0.e_proj.weight"},
  };
  for (const auto& [ours, theirs] : rows) {
    EXPECT_EQ(transformers_name(ours).name, theirs);
    EXPECT_EQ(canonical_name(theirs).name, ours);
    EXPECT_EQ(canonical_name(theirs).stack, Stack::none);
    EXPECT_EQ(canonical_name(ours).name, ours);
    EXPECT_EQ(canonical_name("model." + std::string(ours)).name, ours);
  }
}

TEST(NameMap, OtherAcceptedSpellings) {
  // What transformers 5.23 saves: shipped names under "model.", and the KV norm's spelled like a
  // compressor's.
  EXPECT_EQ(canonical_name("model.layers.2.attn.norm.weight").name, "layers.2.attn.kv_norm.weight");
  EXPECT_EQ(canonical_name("model.layers.2.attn.compressor.norm.weight").name,
            "layers.2.attn.compressor.norm.weight");
  EXPECT_EQ(canonical_name("model.hc_head.hc_fn").name, "hc_head_fn");
  const std::pair<const char*, const char*> rows[] = {
      {"model.layers.1.self_attn.compressor.indexer.weights_proj.weight",
       "layers.1.attn.indexer.weights_proj.weight"},
      {"layers.1.self_attn.wq_a.weight_scale_inv", "layers.1.attn.wq_a.scale"},
      {"model.layers.1.mlp.experts.17.w2.weight", "layers.1.ffn.experts.17.w2.weight"},
      {"model.layers.1.mlp.experts.17.up_proj.weight_scale_inv",
       "layers.1.ffn.experts.17.w3.scale"},
      {"layers.1.mlp.gate.e_score_correction_bias", "layers.1.ffn.gate.bias"},
      {"mtp.0.self_attn.q_a_proj.weight", "mtp.0.attn.wq_a.weight"},
      {"layers.1.mlp.up_proj.weight", "layers.1.ffn.w3.weight"},
      {"model.layers.1.self_attn.indexer.compressor.wkv.weight",
       "layers.1.attn.indexer.compressor.wkv.weight"},
  };
  for (const auto& [theirs, ours] : rows) EXPECT_EQ(canonical_name(theirs).name, ours) << theirs;
}

TEST(NameMap, Experts) {
  const TransformersName w1 = transformers_name("layers.3.ffn.experts.17.w1.weight");
  EXPECT_EQ(w1.name, "model.layers.3.mlp.experts.gate_up_proj");
  EXPECT_EQ(w1.stack, Stack::gate_up);
  EXPECT_EQ(w1.expert, 17);
  EXPECT_FALSE(w1.is_second_half);
  EXPECT_TRUE(transformers_name("layers.3.ffn.experts.17.w3.weight").is_second_half);
  EXPECT_EQ(transformers_name("layers.3.ffn.experts.17.w2.scale").name,
            "model.layers.3.mlp.experts.down_proj_scale_inv");
  for (const char* name :
       {"model.layers.3.mlp.experts.gate_up_proj", "layers.3.ffn.experts.gate_up_proj.weight"}) {
    EXPECT_EQ(canonical_name(name).name, "layers.3.ffn.experts.weight");
    EXPECT_EQ(canonical_name(name).stack, Stack::gate_up);
  }
  EXPECT_EQ(canonical_name("model.layers.3.mlp.experts.down_proj_scale_inv").name,
            "layers.3.ffn.experts.scale");
  EXPECT_EQ(canonical_name("model.layers.3.mlp.experts.down_proj.weight_scale_inv").stack,
            Stack::down);
}

// Every tensor of the published models goes to transformers and back, and no two of them meet.
TEST(NameMap, EveryTensorOfFlashComesBack) {
  const ModelConfig config = load_config(data("v4-flash.json")).value();
  std::set<std::string> names;
  for (const TensorSpec& spec : stored_tensors(config)) {
    const TransformersName theirs = transformers_name(spec.name);
    const CanonicalName back = canonical_name(theirs.name);
    EXPECT_EQ(back.stack, theirs.stack);
    std::string name = back.name;
    if (back.stack != Stack::none) {
      const ExpertTensor expert = *parse_expert_name(spec.name);
      EXPECT_EQ(name, std::string(expert.prefix) + "." + std::string(expert.part));
      name = spec.name;
    }
    EXPECT_EQ(name, spec.name);
    EXPECT_TRUE(
        names.insert(fmt::format("{}|{}|{}", theirs.name, theirs.expert, theirs.is_second_half))
            .second);
  }
  EXPECT_EQ(names.size(), 69187u);  // reference/forward 1.5
}

TEST(NameMap, StrangeNamesComeBack) {
  for (const char* name :
       {"", ".", "..", "layers", "layers.", "layers.x.attn", "layers.99999999999999999999.a",
        "mtp.0", "hc_head", "hc_head.x", "model", "model.", "foo.bar", "layers.1.attn.",
        "layers.1.ffn.experts.", "layers.1.ffn.experts.gate_up_projx"}) {
    (void)canonical_name(name);
    (void)parse_expert_name(name);
  }
  EXPECT_EQ(canonical_name("foo.bar").name, "foo.bar");
  EXPECT_EQ(canonical_name("layers.x.attn").name, "layers.x.attn");
  EXPECT_FALSE(parse_expert_name("layers.1.ffn.experts.x.w1.weight"));
  EXPECT_FALSE(parse_expert_name("layers.1.ffn.experts.1.w4.weight"));
  EXPECT_FALSE(parse_expert_name("layers.1.ffn.experts.1.w1.bias"));
}

}  // namespace
}  // namespace cachalot::formats
