#include "optim/parameter_groups.h"

#include <gtest/gtest.h>

namespace cachalot::optim {
namespace {

using Cuts = std::vector<RowRange>;

ParameterRule rule(const std::string& name, std::vector<int64_t> shape,
                   const GroupingOptions& options = {}) {
  auto result = parameter_rule(name, shape, options);
  EXPECT_TRUE(result.has_value()) << result.error().to_string();
  return result.has_value() ? *result : ParameterRule{};
}

std::string error(const std::string& name, std::vector<int64_t> shape,
                  const GroupingOptions& options = {}) {
  const auto result = parameter_rule(name, shape, options);
  return result.has_value() ? "" : result.error().message();
}

TEST(ParameterGroups, NamesDecideTheGroup) {
  const auto group = [](const std::string& name, std::vector<int64_t> shape) {
    return rule(name, std::move(shape)).group;
  };
  EXPECT_EQ(group("embed.weight", {100, 8}), ParameterGroup::adamw_decay);
  EXPECT_EQ(group("head.weight", {100, 8}), ParameterGroup::adamw_decay);
  EXPECT_EQ(group("norm.weight", {8}), ParameterGroup::adamw_decay);
  EXPECT_EQ(group("layers.12.attn.kv_norm.weight", {8}), ParameterGroup::adamw_decay);
  EXPECT_EQ(group("mtp.0.enorm.weight", {8}), ParameterGroup::adamw_decay);
  EXPECT_EQ(group("layers.0.attn.indexer.compressor.norm.weight", {8}),
            ParameterGroup::adamw_decay);
  EXPECT_EQ(group("layers.0.hc_attn_base", {24}), ParameterGroup::adamw);
  EXPECT_EQ(group("hc_head_scale", {1}), ParameterGroup::adamw);
  EXPECT_EQ(group("layers.0.attn.attn_sink", {4}), ParameterGroup::adamw);
  EXPECT_EQ(group("layers.0.attn.compressor.ape", {4, 8}), ParameterGroup::adamw);
  EXPECT_EQ(group("layers.3.ffn.gate.bias", {8}), ParameterGroup::none);
  EXPECT_EQ(group("layers.0.ffn.gate.tid2eid", {8, 2}), ParameterGroup::none);
  EXPECT_EQ(group("layers.3.ffn.gate.weight", {8, 8}), ParameterGroup::muon);
  EXPECT_EQ(group("layers.3.ffn.experts.117.w2.weight", {8, 8}), ParameterGroup::muon);
  EXPECT_EQ(group("layers.3.attn.indexer.weights_proj.weight", {8, 8}), ParameterGroup::muon);
  EXPECT_EQ(group("layers.3.ffn.w2.weight", {8, 8}), ParameterGroup::muon);  // a dense ablation's
  EXPECT_EQ(group("mtp.0.e_proj.weight", {8, 8}), ParameterGroup::muon);
  EXPECT_EQ(group("mtp.0.hc_head_fn", {4, 8}), ParameterGroup::muon);
}

TEST(ParameterGroups, FusedStorageIsCutIntoItsMatrices) {
  GroupingOptions options{.head_dim = 64,
                          .index_head_dim = 32,
                          .num_attention_heads = 4,
                          .index_n_heads = 2,
                          .o_groups = 2};
  EXPECT_EQ(rule("layers.0.hc_ffn_fn", {24, 384}, options).matrices,
            (Cuts{{0, 4}, {4, 4}, {8, 16}}));
  EXPECT_EQ(rule("hc_head_fn", {4, 384}, options).matrices, (Cuts{{0, 4}}));
  EXPECT_EQ(rule("layers.0.attn.compressor.wkv.weight", {128, 96}, options).matrices,
            (Cuts{{0, 64}, {64, 64}}));
  EXPECT_EQ(rule("layers.0.attn.compressor.wgate.weight", {64, 96}, options).matrices,
            (Cuts{{0, 64}}));
  EXPECT_EQ(rule("layers.0.attn.indexer.compressor.wgate.weight", {64, 96}, options).matrices,
            (Cuts{{0, 32}, {32, 32}}));
  EXPECT_EQ(rule("layers.0.attn.wo_a.weight", {80, 128}, options).matrices,
            (Cuts{{0, 40}, {40, 40}}));
  EXPECT_EQ(rule("layers.0.attn.wq_b.weight", {256, 56}, options).matrices, (Cuts{{0, 256}}));
  options.split_heads = true;
  EXPECT_EQ(rule("layers.0.attn.wq_b.weight", {256, 56}, options).matrices, cut_evenly(256, 4));
  EXPECT_EQ(rule("layers.0.attn.indexer.wq_b.weight", {64, 56}, options).matrices,
            cut_evenly(64, 2));
  EXPECT_EQ(rule("layers.0.attn.wkv.weight", {64, 56}, options).matrices, (Cuts{{0, 64}}));
}

TEST(ParameterGroups, OptionsTurnMatricesAndVectorsIntoTheOneGroupOfABaseline) {
  const GroupingOptions options{.muon = false, .decay_vectors = true};
  for (const char* name : {"layers.0.attn.wq_a.weight", "layers.0.hc_attn_fn", "embed.weight"}) {
    EXPECT_EQ(rule(name, {24, 8}, options).group, ParameterGroup::adamw_decay);
  }
  EXPECT_EQ(rule("layers.0.attn.attn_sink", {4}, options).group, ParameterGroup::adamw_decay);
  EXPECT_EQ(rule("layers.0.ffn.gate.bias", {4}, options).group, ParameterGroup::none);
}

TEST(ParameterGroups, ErrorsNameTheTensorAndBothValues) {
  for (const char* name :
       {"layers.0.attn.wq_c.weight", "layers.x.attn.wq_a.weight", "layers.0.attn.wq_a.scale",
        "model.embed_tokens.weight", "mtp.0.head.weight", "layers.0.ffn.experts.w1.weight", "",
        "layers.0.e_proj.weight", "layers.0"}) {
    EXPECT_NE(error(name, {8, 8}).find(std::string(name) + ": "), std::string::npos) << name;
  }
  EXPECT_EQ(error("layers.0.hc_attn_fn", {20, 8}),
            "layers.0.hc_attn_fn: expected (2 + hc_mult) hc_mult = 24 rows, found 20 rows");
  EXPECT_EQ(error("layers.0.attn.wo_a.weight", {20, 8}),
            "layers.0.attn.wo_a.weight: expected a multiple of o_groups = 8 rows, found 20 rows");
  EXPECT_EQ(error("layers.0.attn.compressor.wkv.weight", {8, 8}),
            "layers.0.attn.compressor.wkv.weight: expected head_dim = 512 rows or twice as many, "
            "found 8 rows");
  EXPECT_EQ(error("layers.0.attn.wq_a.weight", {8}),
            "layers.0.attn.wq_a.weight: expected a matrix, found shape [8]");
}

TEST(ParameterGroups, AuditCountsAndRefusesAName) {
  std::vector<NamedShape> parameters = {{"embed.weight", {10, 4}},
                                        {"layers.0.hc_attn_fn", {24, 16}},
                                        {"layers.0.hc_attn_base", {24}},
                                        {"layers.0.ffn.gate.bias", {3}}};
  const auto audit = audit_parameters(parameters, {});
  ASSERT_TRUE(audit.has_value());
  EXPECT_EQ(audit->to_table(true),
            "group         tensors  matrices        elements\n"
            "muon                1         3             384\n"
            "adamw_decay         1         0              40\n"
            "adamw               1         0              24\n"
            "none                1         0               3\n"
            "adamw_decay  embed.weight [10, 4]\n"
            "muon         layers.0.hc_attn_fn [24, 16] rows 4 4 16\n"
            "adamw        layers.0.hc_attn_base [24]\n"
            "none         layers.0.ffn.gate.bias [3]\n");
  parameters.push_back(parameters[0]);
  EXPECT_EQ(audit_parameters(parameters, {}).error().message(),
            "embed.weight: expected each parameter once, found it twice");
  parameters.back().name = "extra.weight";
  EXPECT_FALSE(audit_parameters(parameters, {}).has_value());
}

TEST(ParameterGroups, IndexerParametersAreTheIndexersAndItsCompressors) {
  EXPECT_TRUE(is_indexer_parameter("layers.2.attn.indexer.wq_b.weight"));
  EXPECT_TRUE(is_indexer_parameter("layers.2.attn.indexer.compressor.ape"));
  EXPECT_FALSE(is_indexer_parameter("layers.2.attn.compressor.ape"));
}

}  // namespace
}  // namespace cachalot::optim
