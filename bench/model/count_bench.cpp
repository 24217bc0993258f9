#include "model/count_bench.h"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "engine/token_work.h"
#include "formats/accounting.h"
#include "formats/presets.h"

namespace cachalot::bench {
namespace {

using LayerKind = std::pair<int64_t, bool>;  // ratio, and whether its experts are hashed

Result<engine::TokenWork> count_layer(formats::ModelConfig config, const LayerKind& kind,
                                      const CountBenchOptions& options) {
  config.num_hidden_layers = 1;
  config.num_nextn_predict_layers = 0;
  config.compress_ratios = {kind.first};
  config.num_hash_layers = kind.second ? 1 : 0;
  engine::ModelOptions model_options;
  model_options.precision = options.precision;
  model_options.device = options.device;
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<engine::LoadedModel> model,
                            engine::LoadedModel::random(std::move(config), 1, model_options));
  return engine::count_token_work(*model, options.context);
}

Result<std::string> count(const std::string& preset, const CountBenchOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(const formats::ModelConfig config, formats::preset_config(preset));
  std::map<LayerKind, int64_t> layers;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    ++layers[{config.compress_ratios[static_cast<size_t>(i)], i < config.num_hash_layers}];
  double flops = 0, bytes = 0;
  for (const auto& [kind, number] : layers) {
    CACHALOT_ASSIGN_OR_RETURN(const engine::TokenWork work, count_layer(config, kind, options));
    if (kind == layers.begin()->first) flops += work.head.fp8_equivalent_flops();
    flops += static_cast<double>(number) * work.layers.fp8_equivalent_flops();
    bytes += static_cast<double>(number) * work.cache_bytes;
  }
  const double context = static_cast<double>(options.context);
  const formats::ParameterCount parameters =
      formats::count_parameters(config, formats::tensor_inventory(config));
  return fmt::format(
      "{{\"preset\": \"{}\", \"gflop\": {:.4f}, \"formula_gflop\": {:.4f}, \"share_of_v32\": "
      "{:.4f}, \"cache_bytes\": {}, \"cache_share_of_v32\": {:.4f}}}",
      preset, flops / 1e9, formats::token_flops(config, parameters, context).total() / 1e9,
      flops / formats::v32_token_flops(context).total(), bytes,
      bytes / formats::v32_kv_bytes_per_token());
}

}  // namespace

Result<std::string> run_count_bench(const CountBenchOptions& options) {
  std::string presets;
  for (const std::string& preset : options.presets) {
    CACHALOT_ASSIGN_OR_RETURN(const std::string counted, count(preset, options));
    presets += (presets.empty() ? "" : ", ") + counted;
  }
  return fmt::format(
      "{{\"bench\": \"count\", \"context\": {}, \"device\": \"{}\", \"precision\": \"{}\", "
      "\"v32_gflop\": {:.4f}, \"v32_cache_bytes\": {}, \"presets\": [{}]}}",
      options.context, options.device, options.precision,
      formats::v32_token_flops(static_cast<double>(options.context)).total() / 1e9,
      formats::v32_kv_bytes_per_token(), presets);
}

}  // namespace cachalot::bench
