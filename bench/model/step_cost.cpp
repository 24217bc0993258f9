#include "model/step_cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"

namespace cachalot::bench {

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::vector<int32_t> random_prompt(int64_t count, int64_t vocab_size) {
  RngStream rng(3, RngPurpose::data, 0);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids)
    id = static_cast<int32_t>(rng.next_u32() % static_cast<uint32_t>(vocab_size));
  return ids;
}

StepCost step_cost(const engine::Engine& engine, double context, int64_t sequences) {
  const formats::ModelConfig& c = engine.config();
  const cache::CacheLayout& layout = engine.cache_layout();
  const auto n = static_cast<double>(sequences);
  const double chosen =
      static_cast<double>(c.num_experts_per_tok) / static_cast<double>(c.n_routed_experts);
  StepCost cost{};
  for (const model::WeightSlot& slot : engine.weights().slots) {
    if (slot.matrix == nullptr || slot.name.starts_with("mtp.")) continue;
    const bool is_expert = slot.name.find(".ffn.experts.") != std::string::npos;
    const auto elements = static_cast<double>(slot.matrix->rows() * slot.matrix->columns());
    const auto bytes = static_cast<double>(slot.matrix->num_bytes());
    cost.products.push_back({2.0 * n * elements * (is_expert ? chosen : 1.0),
                             bytes * (is_expert ? 1.0 - std::pow(1.0 - chosen, n) : 1.0),
                             slot.matrix->format() == ops::WeightFormat::f32});
  }
  const std::vector<formats::LayerConfig> layers = formats::layer_configs(c);
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    const cache::LayerStreams& streams = layout.layer(layer);
    const double entries =
        layers[layer].ratio > 0 ? context / static_cast<double>(layers[layer].ratio) : 0.0;
    const bool csa = layers[layer].attention == formats::AttentionKind::csa;
    const double keys = std::min(context, static_cast<double>(c.sliding_window)) +
                        (csa ? std::min(entries, static_cast<double>(c.index_topk)) : entries);
    cost.attention.flops += 4.0 * static_cast<double>(c.heads_dim()) * keys;
    cost.attention.bytes += keys * static_cast<double>(streams.window.row_bytes());
    if (!csa) continue;
    cost.attention.flops += 2.0 * static_cast<double>(c.index_n_heads * c.index_head_dim) * entries;
    cost.attention.bytes += entries * static_cast<double>(streams.index_key.row_bytes());
  }
  cost.attention.flops *= n;
  cost.attention.bytes *= n;
  return cost;
}

double flops_of(const StepCost& cost) {
  double flops = cost.attention.flops;
  for (const OpCost& product : cost.products) flops += product.flops;
  return flops;
}

double bytes_of(const StepCost& cost) {
  double bytes = cost.attention.bytes;
  for (const OpCost& product : cost.products) bytes += product.bytes;
  return bytes;
}

Status check_share(const char* name, double share) {
  if (share <= 1) return {};
  return invalid_argument(
      fmt::format("{}: expected a share of the machine's limit of at most 1, "
                  "found {:.3f}: the limit or the work is counted wrong",
                  name, share));
}

}  // namespace cachalot::bench
