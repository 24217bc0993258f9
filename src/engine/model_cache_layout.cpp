#include "engine/model_cache_layout.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <boost/json/serialize.hpp>
#include <numeric>

namespace cachalot::engine {
namespace {

// Rows written at one precision mean nothing at another, nor under another config, nor with other
// weights.
uint64_t fingerprint(const formats::ModelConfig& config, const model::Precision& precision,
                     uint64_t weights_fingerprint) {
  const std::string text = fmt::format(
      "{:016x}|{}|{}{}{}{}|{}|{}", weights_fingerprint, json::serialize(formats::to_json(config)),
      precision.bf16, precision.act8, precision.rotate_index, precision.index_fp4,
      static_cast<int>(precision.kv), static_cast<int>(precision.index));
  return XXH3_64bits(text.data(), text.size());
}

}  // namespace

Result<cache::CacheLayout> model_cache_layout(const formats::ModelConfig& config,
                                              const model::Precision& precision,
                                              const CacheOptions& options) {
  const std::vector<formats::LayerConfig> layers = formats::layer_configs(config);
  std::vector<cache::LayerStreams> streams(layers.size());
  int64_t unit = 1;
  for (size_t i = 0; i < layers.size(); ++i) {
    const formats::LayerConfig& layer = layers[i];
    const auto layer_idx = static_cast<int64_t>(i);
    cache::LayerStreams& s = streams[i];
    if (layer.ratio > 0) unit = std::lcm(unit, layer.ratio);
    if (layer.kv_source == layer_idx) {
      const tensor::RowLayout row =
          tensor::kv_row_layout(precision.kv, config.head_dim, config.qk_rope_head_dim);
      if (layer.attention != formats::AttentionKind::full) {
        s.window = row;
        s.window_capacity = config.sliding_window + options.rewind_slack;
      }
      s.ratio = layer.ratio;
      if (layer.ratio > 0) s.entry = row;
      if (layer.ratio > 1) {
        const int64_t z = layer.ratio == 4 ? 2 : 1;
        s.tail = {2 * z * config.head_dim * 4, 0};
        s.tail_capacity = z * layer.ratio + options.rewind_slack;
      }
    }
    if (layer.attention == formats::AttentionKind::csa && layer.index_source == layer_idx) {
      s.ratio = layer.ratio;
      s.index_key = tensor::index_row_layout(precision.index, config.index_head_dim);
      s.index_tail = {2 * 2 * config.index_head_dim * 4, 0};
      s.index_tail_capacity = 2 * layer.ratio + options.rewind_slack;
    }
  }
  const int64_t block_tokens = (options.block_tokens + unit - 1) / unit * unit;
  return cache::CacheLayout::create(std::move(streams), block_tokens, options.rewind_slack,
                                    fingerprint(config, precision, options.weights_fingerprint));
}

}  // namespace cachalot::engine
