#include "model/step_cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "formats/accounting.h"

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
  const formats::ParameterCount parameters =
      formats::count_parameters(c, formats::tensor_inventory(c));
  const model::ModelWeights& weights = engine.weights();
  const cache::CacheLayout& layout = engine.cache_layout();
  const auto n = static_cast<double>(sequences);
  const double chosen =
      static_cast<double>(c.num_experts_per_tok) / static_cast<double>(c.n_routed_experts);
  StepCost cost{};
  cost.matrix_flops =
      2.0 * n * static_cast<double>(parameters.active_quantised + parameters.active_wide);
  cost.matrix_bytes = static_cast<double>(weights.num_bytes()) -
                      static_cast<double>(weights.expert_bytes()) * std::pow(1.0 - chosen, n);
  const std::vector<formats::LayerConfig> layers = formats::layer_configs(c);
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    const cache::LayerStreams& streams = layout.layer(layer);
    const double entries =
        layers[layer].ratio > 0 ? context / static_cast<double>(layers[layer].ratio) : 0.0;
    const bool csa = layers[layer].attention == formats::AttentionKind::csa;
    const double keys = std::min(context, static_cast<double>(c.sliding_window)) +
                        (csa ? std::min(entries, static_cast<double>(c.index_topk)) : entries);
    cost.attention_flops += 4.0 * static_cast<double>(c.heads_dim()) * keys;
    cost.attention_bytes += keys * static_cast<double>(streams.window.row_bytes());
    if (!csa) continue;
    cost.attention_flops += 2.0 * static_cast<double>(c.index_n_heads * c.index_head_dim) * entries;
    cost.attention_bytes += entries * static_cast<double>(streams.index_key.row_bytes());
  }
  cost.attention_flops *= n;
  cost.attention_bytes *= n;
  return cost;
}

double bytes_of(const StepCost& cost) { return cost.matrix_bytes + cost.attention_bytes; }

Status check_share(const char* name, double share) {
  if (share <= 1) return {};
  return invalid_argument(
      fmt::format("{}: expected a share of the machine's limit of at most 1, "
                  "found {:.3f}: the limit or the work is counted wrong",
                  name, share));
}

}  // namespace cachalot::bench
