#include "apps/inspect_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <filesystem>
#include <functional>
#include <vector>

#include "apps/svg_chart.h"
#include "base/file.h"
#include "base/json.h"
#include "formats/presets.h"

namespace cachalot::apps {
namespace {

using formats::ModelConfig;
using formats::ParameterCount;

constexpr double kMaxContext = 1048576;
constexpr int kNumPoints = 256;

struct Curve {
  std::string label;
  std::string color;
  std::string note;  // at the right end
  std::function<double(double)> value;
};

SvgChart make_chart(std::string title, std::string y_title, const std::vector<Curve>& curves) {
  SvgChart chart;
  chart.title = std::move(title);
  chart.width = 880;
  chart.height = 500;
  chart.left = 86;
  chart.right = 240;
  chart.top = 76;
  chart.bottom = 70;
  chart.has_legend = true;
  chart.x = {"context length (tokens)", 0, kMaxContext, false, {}};
  for (int i = 0; i <= 4; ++i) {
    chart.x.ticks.push_back({kMaxContext * i / 4, i == 0   ? "0"
                                                  : i == 4 ? "1M"
                                                           : fmt::format("{}K", 256 * i)});
  }
  double max = 0;
  for (const Curve& curve : curves) {
    ChartLine& line = chart.lines.emplace_back();
    line.label = curve.label;
    line.color = curve.color;
    line.note = curve.note;
    for (int i = 0; i <= kNumPoints; ++i) {
      const double x = kMaxContext * i / kNumPoints;
      line.points.emplace_back(x, curve.value(std::max(1.0, x)));
      max = std::max(max, line.points.back().second);
    }
  }
  chart.y = linear_axis(std::move(y_title), 0, max);
  return chart;
}

struct Model {
  std::string label;
  std::string color;
  ModelConfig config;
  ParameterCount parameters;
};

bool is_same(const ModelConfig& a, const ModelConfig& b) {
  return json::serialize(formats::to_json(a)) == json::serialize(formats::to_json(b));
}

// The part that grows with the context; window rows and compressor tails are a few MiB a sequence.
double cache_gib(const ModelConfig& config, double context) {
  return kv_bytes_per_token(config, tensor::KvFormat::fp8, tensor::IndexFormat::fp4) * context /
         0x1p30;
}

std::vector<Model> models_to_draw(const ModelConfig& config, const ParameterCount& parameters) {
  std::vector<Model> models;
  for (auto& [label, color, preset] : {std::tuple("V4-Pro", "#1b5fa8", formats::pro_config()),
                                       {"V4-Flash", "#c8434f", formats::flash_config()}}) {
    models.push_back(
        {label, color, preset, count_parameters(preset, formats::tensor_inventory(preset))});
  }
  for (const Model& model : models) {
    if (is_same(model.config, config)) return models;
  }
  models.push_back({"this model", "#21867a", config, parameters});
  return models;
}

}  // namespace

Status write_cost_curves(const std::string& directory, const ModelConfig& config,
                         const ParameterCount& parameters) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  const std::vector<Model> models = models_to_draw(config, parameters);
  constexpr const char* kGrey = "#6b7280";

  const double v32_flops = formats::v32_token_flops(kMaxContext).total() * 1e-9;
  std::vector<Curve> flops = {
      {"V3.2", kGrey, fmt::format("V3.2: {:.1f}", v32_flops),
       [](double context) { return formats::v32_token_flops(context).total() * 1e-9; }}};
  const double v32_gib = formats::v32_kv_bytes_per_token() * kMaxContext / 0x1p30;
  std::vector<Curve> cache = {
      {"V3.2", kGrey, fmt::format("V3.2: {:.2f}", v32_gib),
       [](double context) { return formats::v32_kv_bytes_per_token() * context / 0x1p30; }}};
  for (const Model& model : models) {
    auto model_flops = [&model](double context) {
      return token_flops(model.config, model.parameters, context).total() * 1e-9;
    };
    auto model_cache = [&model](double context) { return cache_gib(model.config, context); };
    const double flops_end = model_flops(kMaxContext), cache_end = model_cache(kMaxContext);
    flops.push_back(
        {model.label, model.color,
         fmt::format("{}: {:.1f} ({:.2f} %)", model.label, flops_end, flops_end / v32_flops * 100),
         model_flops});
    cache.push_back(
        {model.label, model.color,
         fmt::format("{}: {:.2f} ({:.2f} %)", model.label, cache_end, cache_end / v32_gib * 100),
         model_cache});
  }
  const SvgChart flops_chart = make_chart("FLOPs per generated token over context length",
                                          "GFLOP per token (FP8-equivalent)", flops);
  const SvgChart cache_chart =
      make_chart("KV cache over context length", "GiB per sequence, native formats", cache);
  const std::filesystem::path base(directory);
  CACHALOT_RETURN_IF_ERROR(
      write_file_atomically((base / "flops.svg").string(), svg_file(flops_chart)));
  return write_file_atomically((base / "kv_bytes.svg").string(), svg_file(cache_chart));
}

}  // namespace cachalot::apps
