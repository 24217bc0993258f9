#include "train/initialize.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/rng.h"

namespace cachalot::train {
namespace {

constexpr double kReadLogit = 4;  // sigmoid: 0.98 and 0.02
constexpr double kMixLogit = 4;   // of the diagonal over the rest: 0.95 for four lanes

RngStream stream_of(const InitConfig& init, const std::string& name) {
  return {init.seed, RngPurpose::weights, XXH3_64bits(name.data(), name.size())};
}

std::vector<float> normal(const formats::TensorInfo& info, const InitConfig& init) {
  std::vector<float> values(static_cast<size_t>(tensor::num_elements(info.shape)));
  RngStream rng = stream_of(init, info.name);
  for (float& value : values) value = static_cast<float>(init.std * rng.next_normal());
  return values;
}

// Rows of a sublayer's static maps: pre [n], post [n], comb [n, n]. Unconstrained maps have the
// identity added already.
std::vector<float> residual_maps(const formats::TensorInfo& info, int64_t n,
                                 formats::ResidualKind kind) {
  std::vector<float> base(static_cast<size_t>(tensor::num_elements(info.shape)), 0.0f);
  const bool is_ffn = info.name.ends_with("hc_ffn_base");
  const int64_t lane = (2 * info.layer + (is_ffn ? 1 : 0)) % n;
  for (int64_t i = 0; i < n; ++i) {
    base[i] = static_cast<float>(i == lane ? kReadLogit : -kReadLogit);
    if (kind == formats::ResidualKind::mhc) base[2 * n + i * n + i] = static_cast<float>(kMixLogit);
  }
  return base;
}

std::vector<float> values_of(const formats::TensorInfo& info, const formats::ModelConfig& config,
                             const InitConfig& init) {
  const auto count = static_cast<size_t>(tensor::num_elements(info.shape));
  const auto constant = [&](double value) {
    return std::vector<float>(count, static_cast<float>(value));
  };
  if (info.name.ends_with("norm.weight")) return constant(1);
  if (info.name.ends_with("_scale")) return constant(init.hc_gate);
  if (info.name.ends_with("hc_head_base"))
    return constant(-std::log(static_cast<double>(config.hc_mult) - 1 + 1e-3));
  if (info.name.ends_with("_base"))
    return residual_maps(info, config.hc_mult, formats::layer_configs(config)[0].residual);
  if (info.shape.size() == 1 || info.name.ends_with(".ape")) return constant(0);
  return normal(info, init);
}

std::vector<int32_t> table_of(const formats::TensorInfo& info, const formats::ModelConfig& config,
                              const InitConfig& init) {
  const int64_t rows = info.shape[0], k = info.shape[1];
  std::vector<int32_t> ids, experts(static_cast<size_t>(config.n_routed_experts));
  RngStream rng = stream_of(init, info.name);
  for (int64_t row = 0; row < rows; ++row) {
    std::iota(experts.begin(), experts.end(), 0);
    for (int64_t i = 0; i < k; ++i) {
      const auto left = static_cast<double>(config.n_routed_experts - i);
      std::swap(experts[i], experts[i + static_cast<int64_t>(rng.next_unit() * left)]);
    }
    std::sort(experts.begin(), experts.begin() + k);
    ids.insert(ids.end(), experts.begin(), experts.begin() + k);
  }
  return ids;
}

}  // namespace

ParameterStore initial_parameters(const formats::ModelConfig& config, const InitConfig& init) {
  const std::vector<formats::TensorInfo> inventory = formats::tensor_inventory(config);
  return ParameterStore::from_values(
      inventory, {[&](const formats::TensorInfo& info) { return values_of(info, config, init); },
                  [&](const formats::TensorInfo& info) { return table_of(info, config, init); }});
}

}  // namespace cachalot::train
