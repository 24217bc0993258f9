#include "formats/accounting.h"

#include <gtest/gtest.h>

#include "base/test_data.h"

namespace cachalot::formats {
namespace {

using tensor::DType;
using tensor::IndexFormat;
using tensor::KvFormat;

struct Model {
  explicit Model(const char* name)
      : config(load_config(test_data("formats/config/" + std::string(name))).value()),
        inventory(tensor_inventory(config)),
        parameters(count_parameters(config, inventory)) {}
  ModelConfig config;
  std::vector<TensorInfo> inventory;
  ParameterCount parameters;
};
const Model& flash() {
  static const Model model("v4-flash.json");
  return model;
}
const Model& pro() {
  static const Model model("v4-pro.json");
  return model;
}

// reference/forward 1.4.
TEST(Accounting, Parameters) {
  struct Row {
    Component component;
    int64_t flash, pro;
  };
  const Row rows[] = {
      {Component::routed_experts, 277025390592, 1547396186112},
      {Component::shared_experts, 1082130432, 4029677568},
      {Component::attention, 4599123136, 18293589632},
      {Component::compressor, 261464576, 670128640},
      {Component::indexer, 225730176, 501384960},
      {Component::router, 45099008, 167925504},
      {Component::mhc, 33884439, 84069603},
      {Component::norms, 356352, 881664},
      {Component::embedding, 529530880, 926679040},
      {Component::head, 529530880, 926679040},
      {Component::mtp, 6610048891, 25840145979},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(flash().parameters.of(row.component), row.flash) << component_name(row.component);
    EXPECT_EQ(pro().parameters.of(row.component), row.pro) << component_name(row.component);
  }
  EXPECT_EQ(flash().parameters.main, 284332240471);
  EXPECT_EQ(pro().parameters.main, 1572997201763);
  EXPECT_EQ(flash().parameters.main + flash().parameters.mtp, 290942289362);
  EXPECT_EQ(pro().parameters.main + pro().parameters.mtp, 1598837347742);
  EXPECT_EQ(flash().parameters.active, 13270101591);
  EXPECT_EQ(pro().parameters.active, 48852402019);
  EXPECT_EQ(flash().parameters.active + flash().parameters.embedding, 13799632471);
  EXPECT_EQ(pro().parameters.active + pro().parameters.embedding, 49779081059);
  EXPECT_EQ(flash().parameters.active_quantised, 12350128128);
  EXPECT_EQ(pro().parameters.active_quantised, 46878687232);
  // The reference's figures for Pb count four norm vectors a layer (attn_norm, ffn_norm, q_norm,
  // kv_norm) among the matrices; a norm is no matrix product, so they are left out here. It is 0.05
  // % and moves no printed digit.
  EXPECT_EQ(flash().parameters.active_wide, 918512128 - 43 * (2 * 4096 + 1024 + 512));
  EXPECT_EQ(pro().parameters.active_wide, 1971453952 - 61 * (2 * 7168 + 1536 + 512));
}

// reference/training 6.1 as published, to the rounding of its figures: Flash 284B with 13B active,
// Pro 1.6T with 49B active. The embedding, looked up and not multiplied, is not active, as in the
// report's count of Pro (with it: 49.8B).
TEST(Accounting, ParametersRoundToThePublishedTotals) {
  const auto rounded = [](int64_t count, int64_t unit) { return (count + unit / 2) / unit; };
  constexpr int64_t kBillion = 1'000'000'000;
  EXPECT_EQ(rounded(flash().parameters.main, kBillion), 284);
  EXPECT_EQ(rounded(flash().parameters.active, kBillion), 13);
  EXPECT_EQ(rounded(pro().parameters.main, 100 * kBillion), 16);
  EXPECT_EQ(rounded(pro().parameters.active, kBillion), 49);
}

TEST(Accounting, ParametersPerLayer) {
  auto of_layer = [](const Model& model, int64_t layer, Component component) {
    int64_t count = 0;
    for (const TensorInfo& info : model.inventory) {
      if (info.layer == layer && info.component == component)
        count += tensor::num_elements(info.shape);
    }
    return count;
  };
  EXPECT_EQ(of_layer(flash(), 2, Component::attention), 106956352);
  EXPECT_EQ(of_layer(pro(), 2, Component::attention), 299894912);
  EXPECT_EQ(of_layer(flash(), 2, Component::compressor), 8393216);
  EXPECT_EQ(of_layer(pro(), 2, Component::compressor), 14684672);
  EXPECT_EQ(of_layer(flash(), 3, Component::compressor), 4260352);
  EXPECT_EQ(of_layer(pro(), 3, Component::compressor), 7406080);
  EXPECT_EQ(of_layer(flash(), 2, Component::indexer), 10749056);
  EXPECT_EQ(of_layer(pro(), 2, Component::indexer), 16712832);
  EXPECT_EQ(of_layer(flash(), 2, Component::mhc), 786486);
  EXPECT_EQ(of_layer(pro(), 2, Component::mhc), 1376310);
  EXPECT_EQ(of_layer(flash(), 2, Component::shared_experts), 25165824);
  EXPECT_EQ(of_layer(pro(), 2, Component::routed_experts), 25367150592);
}

// reference/forward 1.5.
TEST(Accounting, BytesOnDisk) {
  const StoredBytes f = count_stored_bytes(stored_tensors(flash().config));
  const StoredBytes p = count_stored_bytes(stored_tensors(pro().config));
  EXPECT_EQ(f.elements.at(DType::i8), 283467841536);
  EXPECT_EQ(p.elements.at(DType::i8), 1572763336704);
  EXPECT_EQ(f.bytes.at(DType::i8), 141733920768);
  EXPECT_EQ(f.bytes.at(DType::f8_e8m0), 8858737664);
  EXPECT_EQ(p.bytes.at(DType::f8_e8m0), 49150268416);
  EXPECT_EQ(f.bytes.at(DType::f8_e4m3), 6023020544);
  EXPECT_EQ(p.bytes.at(DType::f8_e4m3), 23169335296);
  EXPECT_EQ(f.bytes.at(DType::bf16), 2830518528);
  EXPECT_EQ(p.bytes.at(DType::bf16), 5633798656);
  EXPECT_EQ(f.bytes.at(DType::f32), 144672072);
  EXPECT_EQ(p.bytes.at(DType::f32), 351105656);
  EXPECT_EQ(f.bytes.at(DType::i64), 18616320);
  EXPECT_EQ(p.bytes.at(DType::i64), 18616320);
  EXPECT_EQ(f.total, 159609485896);
  EXPECT_EQ(p.total, 864704792696);
  EXPECT_EQ(f.num_tensors, 69187);
  EXPECT_EQ(p.num_tensors, 145116);
}

// reference/forward 7.2: tensor data per layer of Flash.
TEST(Accounting, BytesPerLayer) {
  std::map<int64_t, int64_t> bytes;
  for (const TensorInfo& info : flash().inventory) {
    for (const TensorSpec& spec : stored_tensors(flash().config, info))
      bytes[info.layer] += spec.num_bytes();
  }
  EXPECT_EQ(bytes[0], 3566148952);
  EXPECT_EQ(bytes[2], 3596055640);
  EXPECT_EQ(bytes[4], 3589851224);
  EXPECT_EQ(bytes[3], 3568596312);
  EXPECT_EQ(bytes[43], 3593787756);
}

// reference/forward 8.1.
TEST(Accounting, CacheBytes) {
  EXPECT_EQ(kv_bytes_per_token(flash().config, KvFormat::fp8, IndexFormat::fp4), 3514.25);
  EXPECT_EQ(kv_bytes_per_token(pro().config, KvFormat::fp8, IndexFormat::fp4), 5031.4375);
  EXPECT_EQ(kv_bytes_per_token(flash().config, KvFormat::fp8, IndexFormat::fp8), 3850.25);
  EXPECT_EQ(kv_bytes_per_token(pro().config, KvFormat::fp8, IndexFormat::fp8), 5511.4375);
  EXPECT_EQ(kv_bytes_per_token(flash().config, KvFormat::bf16, IndexFormat::bf16), 6880);
  EXPECT_EQ(kv_bytes_per_token(pro().config, KvFormat::bf16, IndexFormat::bf16), 9848);
  EXPECT_EQ(v32_kv_bytes_per_token(), 48068);
}

TEST(Accounting, StateBytes) {
  EXPECT_EQ(state_bytes(flash().config, KvFormat::fp8).window, 3214336);
  EXPECT_EQ(state_bytes(pro().config, KvFormat::fp8).window, 4559872);
  EXPECT_EQ(state_bytes(flash().config, KvFormat::bf16).window, 5636096);
  EXPECT_EQ(state_bytes(pro().config, KvFormat::bf16).window, 7995392);
  EXPECT_EQ(state_bytes(flash().config, KvFormat::fp8).mtp_window, 74752);
  EXPECT_EQ(state_bytes(flash().config, KvFormat::fp8).compressor, 12206080);
  EXPECT_EQ(state_bytes(pro().config, KvFormat::fp8).compressor, 18710528);
}

// reference/forward 8.2: the table, to the digits that it prints.
TEST(Accounting, Flops) {
  struct Row {
    double context, v32, pro, pro_percent, flash, flash_percent;
  };
  const Row rows[] = {
      {4096, 150.8, 122.6, 81.3, 33.0, 21.9},      {32768, 179.4, 128.0, 71.4, 35.4, 19.7},
      {131072, 277.7, 146.5, 52.8, 43.6, 15.7},    {262144, 408.7, 171.2, 41.9, 54.6, 13.4},
      {1048576, 1194.6, 319.4, 26.7, 120.7, 10.1},
  };
  for (const Row& row : rows) {
    const double v32 = v32_token_flops(row.context).total();
    const double p = token_flops(pro().config, pro().parameters, row.context).total();
    const double f = token_flops(flash().config, flash().parameters, row.context).total();
    EXPECT_NEAR(v32 * 1e-9, row.v32, 0.05) << row.context;
    EXPECT_NEAR(p * 1e-9, row.pro, 0.05) << row.context;
    EXPECT_NEAR(f * 1e-9, row.flash, 0.05) << row.context;
    EXPECT_NEAR(p / v32 * 100, row.pro_percent, 0.05) << row.context;
    EXPECT_NEAR(f / v32 * 100, row.flash_percent, 0.05) << row.context;
  }
  const double v32 = v32_token_flops(1048576).total();
  EXPECT_NEAR(token_flops(pro().config, pro().parameters, 1048576).total() / v32, 0.2674, 0.00005);
  EXPECT_NEAR(token_flops(flash().config, flash().parameters, 1048576).total() / v32, 0.1010,
              0.00005);
}

TEST(Accounting, FlopsByPart) {
  const TokenFlops f = token_flops(flash().config, flash().parameters, 1048576);
  EXPECT_NEAR(f.weights * 1e-9, 28.4, 0.05);
  EXPECT_NEAR(f.csa * 1e-9, 3.52, 0.005);
  EXPECT_NEAR(f.hca * 1e-9, 43.6, 0.05);
  EXPECT_NEAR(f.window * 1e-9, 0.07, 0.005);
  EXPECT_NEAR(f.indexer * 1e-9, 45.1, 0.05);
  const TokenFlops p = token_flops(pro().config, pro().parameters, 1048576);
  EXPECT_NEAR(p.weights * 1e-9, 101.6, 0.05);
  EXPECT_NEAR(p.csa * 1e-9, 18.1, 0.05);
  EXPECT_NEAR(p.hca * 1e-9, 135.2, 0.05);
  EXPECT_NEAR(p.indexer * 1e-9, 64.4, 0.05);
  EXPECT_NEAR(v32_token_flops(1048576).weights * 1e-9, 77.1, 0.05);
}

// The formulas of 8.2 with Flash's numbers (its bf16 parameters hold the layers' norms, which are
// no products: 4096 + 4096 + 1024 + 512 of each of 43), where the context is shorter than the
// window and the entries are fewer than the picks, where only the entries are, and at their limits.
TEST(Accounting, FlopsBelowTheWindowAndTheTopK) {
  constexpr double kNorms = 43 * 9728;
  for (const double context : {1.0, 64.0, 127.0, 128.0, 200.0, 2047.0, 2048.0, 2049.0}) {
    const double per_key = 2 * 2 * 64 * 1024, window = context < 128 ? context : 128;
    const double picked = context < 2048 ? context / 4 : 512;
    const TokenFlops f = token_flops(flash().config, flash().parameters, context);
    EXPECT_DOUBLE_EQ(f.weights, 2 * 12350128128.0 + 4 * (918512128.0 - kNorms));
    EXPECT_DOUBLE_EQ(f.window, 2 * per_key * window) << context;
    EXPECT_DOUBLE_EQ(f.csa, 21 * per_key * (picked + window)) << context;
    EXPECT_DOUBLE_EQ(f.hca, 20 * per_key * (context / 128 + window)) << context;
    EXPECT_DOUBLE_EQ(f.indexer, 0.5 * 21 * 2 * 64 * 128 * context / 4) << context;
    EXPECT_EQ(f.full, 0);
  }
}

TEST(Accounting, UnquantisedAndAblatedModels) {
  const Model tiny("golden-tiny.json");
  EXPECT_EQ(tiny.parameters.active_quantised, 0);
  ModelConfig full = tiny.config;
  full.cachalot.attention = {"full"};
  EXPECT_EQ(kv_bytes_per_token(full, KvFormat::f32, IndexFormat::f32), 6 * 64 * 4);
  EXPECT_EQ(state_bytes(full, KvFormat::f32).window, 0);
  EXPECT_GT(token_flops(full, tiny.parameters, 1000).full, 0);
}

}  // namespace
}  // namespace cachalot::formats
