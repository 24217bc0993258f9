// The parameter groups (optim/parameter_groups.h) over every tensor of the published configurations
// and of the golden ones.
#include <gtest/gtest.h>

#include <string>

#include "base/test_data.h"
#include "formats/config.h"
#include "formats/inventory.h"
#include "formats/presets.h"
#include "optim/parameter_groups.h"

namespace cachalot {
namespace {

using formats::Component;
using formats::TensorClass;
using formats::TensorInfo;
using optim::ParameterGroup;

optim::GroupingOptions options_of(const formats::ModelConfig& c) {
  return {.hc_mult = c.hc_mult,
          .head_dim = c.head_dim,
          .index_head_dim = c.index_head_dim,
          .num_attention_heads = c.num_attention_heads,
          .index_n_heads = c.index_n_heads,
          .o_groups = c.o_groups};
}

int64_t num_elements(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (int64_t axis : shape) n *= axis;
  return n;
}

struct Counts {
  int64_t expert_matrices = 0;  // of the decoder layers
  int64_t elements[4] = {};     // by group
};

// Says from a tensor's component and shape alone what reference/training 3.1 asks for it, and
// counts.
Counts audit(const formats::ModelConfig& config, const std::string& what) {
  const std::vector<TensorInfo> inventory = formats::tensor_inventory(config);
  std::vector<optim::NamedShape> names;
  for (const TensorInfo& info : inventory)
    names.push_back({info.name, {info.shape.begin(), info.shape.end()}});
  const auto result = optim::audit_parameters(names, options_of(config));
  EXPECT_TRUE(result.has_value()) << what << ": " << result.error().to_string();
  Counts counts;
  if (!result.has_value()) return counts;
  EXPECT_EQ(result->rows.size(), inventory.size()) << what;

  for (size_t i = 0; i < inventory.size(); ++i) {
    const TensorInfo& info = inventory[i];
    const auto& [name, shape, rule] = result->rows[i];
    const bool matrix = shape.size() == 2 && !name.ends_with(".ape");
    const bool is_router_bias = name.ends_with("ffn.gate.bias");
    ParameterGroup expected = ParameterGroup::muon;
    if (info.tensor_class == TensorClass::table || is_router_bias) {
      expected = ParameterGroup::none;
    } else if (info.component == Component::embedding || info.component == Component::head ||
               (!matrix && name.ends_with("norm.weight"))) {
      expected = ParameterGroup::adamw_decay;
    } else if (!matrix) {
      expected = ParameterGroup::adamw;
    }
    EXPECT_EQ(optim::parameter_group_name(rule.group), optim::parameter_group_name(expected))
        << what << ": " << name;

    // Logical matrices cover the rows once, in order.
    int64_t row = 0;
    for (const optim::RowRange& cut : rule.matrices) {
      EXPECT_EQ(cut.first_row, row) << name;
      EXPECT_GT(cut.rows, 0) << name;
      row += cut.rows;
    }
    EXPECT_EQ(row, rule.group == ParameterGroup::muon ? shape[0] : 0) << name;
    if (info.component == Component::routed_experts && info.layer < config.num_hidden_layers)
      counts.expert_matrices += static_cast<int64_t>(rule.matrices.size());
    counts.elements[static_cast<int>(rule.group)] += num_elements(shape);
  }
  return counts;
}

TEST(ParameterAudit, EveryTensorOfTheModelsIsInTheGroupOfTheReport) {
  // reference/training 3.3: 33,024 and 70,272 routed-expert matrices.
  EXPECT_EQ(audit(formats::flash_config(), "flash").expert_matrices, 33'024);
  const Counts pro = audit(formats::pro_config(), "pro");
  EXPECT_EQ(pro.expert_matrices, 70'272);
  // Embedding and head dominate AdamW's elements: 2 x 129,280 x 7,168 and the norms.
  const int64_t embeddings = int64_t{2} * 129'280 * 7'168;
  const int64_t adamw = pro.elements[static_cast<int>(ParameterGroup::adamw_decay)];
  EXPECT_GT(adamw, embeddings);
  EXPECT_LT(adamw, embeddings + 10'000'000);

  for (const char* name : {"golden-tiny", "golden-clamp", "golden-quant", "golden-peer"}) {
    const auto config = formats::load_config(test_data("formats/config/") + name + ".json");
    ASSERT_TRUE(config.has_value()) << config.error().to_string();
    audit(*config, name);
  }
}

TEST(ParameterAudit, ATensorOfNoGroupIsAnErrorWithItsName) {
  std::vector<optim::NamedShape> names = {{"embed.weight", {8, 4}},
                                          {"layers.0.attn.wq.weight", {4, 4}}};
  const auto result = optim::audit_parameters(names, {});
  ASSERT_FALSE(result.has_value());
  EXPECT_NE(result.error().message().find("layers.0.attn.wq.weight"), std::string::npos);
}

}  // namespace
}  // namespace cachalot
