// config.json as transformers 5 saves it.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "formats/config_internal.h"

namespace cachalot::formats {
namespace {

struct Rates {
  int64_t csa = kCsaRatio;
  int64_t hca = 128;
};

Rates read_rates(JsonFields& fields, std::string_view origin) {
  Rates rates;
  const json::object* object = fields.object("compress_rates");
  if (object == nullptr) return rates;
  JsonFields inner(*object, origin, "compress_rates.");
  inner.integer("compressed_sparse_attention", &rates.csa, kCsaRatio, kCsaRatio);
  inner.integer("heavily_compressed_attention", &rates.hca, 2, kMaxRatio);
  // A ratio decides a layer's kind here.
  if (rates.hca == kCsaRatio) {
    inner.fail("heavily_compressed_attention", fmt::format("another rate than CSA's {}", rates.csa),
               fmt::format("{}", rates.hca), StatusCode::unsupported);
  }
  fields.add_errors(inner);
  return rates;
}

// One text per layer, each one of the names; their indices within the names.
std::vector<size_t> read_kinds(JsonFields& fields, std::string_view key, int64_t num_layers,
                               const std::vector<std::string_view>& names) {
  std::vector<std::string> kinds;
  fields.texts(key, &kinds, static_cast<size_t>(kMaxLayers));
  if (num_layers == 0) return {};  // that key has an error of its own
  if (static_cast<int64_t>(kinds.size()) != num_layers) {
    fields.fail(key, fmt::format("{} names, one per layer", num_layers),
                fmt::format("{}", kinds.size()));
  }
  std::vector<size_t> indices;
  for (const std::string& kind : kinds) {
    const auto found = std::find(names.begin(), names.end(), kind);
    if (found == names.end()) {
      fields.fail(key, fmt::format("{}", fmt::join(names, ", ")), kind.substr(0, 64),
                  StatusCode::unsupported);
      return {};
    }
    indices.push_back(static_cast<size_t>(found - names.begin()));
  }
  return indices;
}

void read_layers(JsonFields& fields, std::string_view origin, ModelConfig& c) {
  const Rates rates = read_rates(fields, origin);
  const int64_t ratios[] = {0, rates.csa, rates.hca};
  for (const size_t kind : read_kinds(
           fields, "layer_types", c.num_hidden_layers,
           {"sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"})) {
    c.compress_ratios.push_back(ratios[kind]);
  }
  const std::vector<size_t> ffns =
      read_kinds(fields, "mlp_layer_types", c.num_hidden_layers, {"hash_moe", "moe"});
  c.num_hash_layers = std::count(ffns.begin(), ffns.end(), 0);
  if (!std::is_sorted(ffns.begin(), ffns.end())) {
    fields.fail("mlp_layer_types", "hash_moe in the first layers only", "one after moe",
                StatusCode::unsupported);
  }
  c.num_nextn_predict_layers = 0;
}

void read_rope_dim(JsonFields& fields, ModelConfig& c) {
  double share = 0;
  fields.real("partial_rotary_factor", &share, 0.0, 1.0);
  c.qk_rope_head_dim = std::lround(share * static_cast<double>(c.head_dim));
  fields.integer("qk_rope_head_dim", &c.qk_rope_head_dim, 2, kMaxHeadDim, share == 0);
}

}  // namespace

bool is_transformers_layout(const json::object& object) { return object.contains("layer_types"); }

void read_transformers_layout(JsonFields& fields, std::string_view origin, ModelConfig& config) {
  read_layers(fields, origin, config);
  read_rope_dim(fields, config);
  fields.text("dtype", &config.torch_dtype);
  if (fields.find("rope_parameters") == nullptr && fields.find("rope_scaling") == nullptr)
    fields.fail("rope_parameters", "an object", "no such key");
}

}  // namespace cachalot::formats
