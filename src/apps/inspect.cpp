#include "apps/inspect.h"

#include <fmt/format.h>

#include <filesystem>
#include <optional>

#include "apps/inspect_svg.h"
#include "apps/model_argument.h"
#include "base/closest.h"
#include "base/file.h"
#include "formats/accounting.h"
#include "formats/json_text.h"
#include "formats/presets.h"
#include "formats/weight_source.h"

namespace cachalot::apps {
namespace {

namespace fs = std::filesystem;
using namespace formats;  // the whole file is about them
using tensor::DType;
using tensor::IndexFormat;
using tensor::KvFormat;

struct Facts {
  std::string path;
  ModelConfig config;
  std::vector<LayerConfig> layers;
  ParameterCount parameters;
  bool has_checkpoint = false;
  StoredBytes stored;  // of the files, or of the layout that the configuration asks for
  int64_t file_bytes = 0;
  int64_t num_files = 0;
  std::string problem;  // why the files do not fit the configuration; empty = they do
  std::vector<std::string> unknown;
};

Result<Facts> gather(const std::string& path) {
  Facts facts;
  facts.path = path;
  std::error_code error;
  Result<ModelConfig> preset = formats::preset_config(path);
  if (preset && !fs::exists(path, error)) {
    facts.config = *std::move(preset);
  } else if (const std::string near = closest(path, formats::preset_names());
             !near.empty() && !fs::exists(path, error)) {
    return invalid_argument(
        fmt::format("{}: expected a model's directory or {}, found no such path; did you mean {}?",
                    path, formats::kPresetNames, near));
  } else {
    CACHALOT_RETURN_IF_ERROR(check_model_path(path));
    CACHALOT_ASSIGN_OR_RETURN(facts.config, load_config(path));
  }
  facts.layers = layer_configs(facts.config);
  facts.parameters = count_parameters(facts.config, tensor_inventory(facts.config));
  const bool has_files = fs::is_directory(path, error) &&
                         (fs::exists(fs::path(path) / "model.safetensors", error) ||
                          fs::exists(fs::path(path) / "model.safetensors.index.json", error));
  if (!has_files) {
    facts.stored = count_stored_bytes(stored_tensors(facts.config));
    return facts;
  }
  facts.has_checkpoint = true;
  CACHALOT_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::open(path));
  std::vector<TensorSpec> specs;
  for (const auto& entry : checkpoint.entries()) {
    specs.push_back({std::string(entry.name), entry.view->dtype, entry.view->shape});
  }
  facts.stored = count_stored_bytes(specs);
  facts.num_files = static_cast<int64_t>(checkpoint.files().size());
  for (const SafetensorsFile& file : checkpoint.files())
    facts.file_bytes += static_cast<int64_t>(file.file_bytes());
  CACHALOT_ASSIGN_OR_RETURN(const WeightSource source,
                            WeightSource::create(std::move(checkpoint), facts.config));
  facts.problem = source.validate().message();
  facts.unknown = source.unknown_names();
  return facts;
}

// 1573.0B, 284.33B, 9.1M: five digits, or four where those reach the tenth.
std::string short_count(int64_t count) {
  const auto value = static_cast<double>(count);
  if (value >= 1e12) {
    const std::string digits = fmt::format("{:.1f}", value / 1e9);
    return digits.substr(0, digits.size() - 5) + "," + digits.substr(digits.size() - 5) + "B";
  }
  if (value >= 1e9) return fmt::format("{:.2f}B", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.2f}M", value / 1e6);
  return fmt::format("{}", count);
}

std::string grouped(int64_t count) {
  std::string digits = fmt::format("{}", count);
  for (int64_t at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(static_cast<size_t>(at), ",");
  return digits;
}

// Two decimals, thousands grouped: 3,514.25.
std::string grouped_real(double value) {
  const std::string digits = fmt::format("{:.2f}", value);
  return grouped(std::stoll(digits)) + digits.substr(digits.find('.'));
}

std::string short_bytes(double bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while (bytes >= 1024 && unit < 4) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.2f} {}", bytes, kUnits[unit]);
}

// "window", "csa 4" or "hca 128", with the number of layers of each, in order of appearance.
std::vector<std::pair<std::string, int64_t>> layer_kinds(const Facts& facts) {
  std::vector<std::pair<std::string, int64_t>> kinds;
  for (const LayerConfig& layer : facts.layers) {
    std::string kind(attention_kind_name(layer.attention));
    if (layer.attention == AttentionKind::csa || layer.attention == AttentionKind::hca) {
      kind += fmt::format(" {}:1", layer.ratio);
    }
    kind += fmt::format(", {}", ffn_kind_name(layer.ffn));
    if (layer.residual != ResidualKind::mhc)
      kind += fmt::format(", {}", residual_kind_name(layer.residual));
    if (layer.is_mtp) kind = "MTP: " + kind;
    bool is_known = false;
    for (auto& [name, count] : kinds) {
      if (name != kind) continue;
      ++count;
      is_known = true;
    }
    if (!is_known) kinds.emplace_back(kind, 1);
  }
  return kinds;
}

// The unit in which tables show amounts as large as this one.
struct Unit {
  double size;
  const char* prefix;
};
Unit unit_of(double amount) {
  if (amount >= 1e9) return {1e9, "G"};
  return amount >= 1e6 ? Unit{1e6, "M"} : Unit{1e3, "k"};
}

constexpr double kContexts[] = {4096, 32768, 131072, 262144, 1048576};

struct Cache {
  const char* name;
  KvFormat kv;
  IndexFormat index;
};
constexpr Cache kCaches[] = {{"FP8 rows, FP4 index", KvFormat::fp8, IndexFormat::fp4},
                             {"FP8 rows, FP8 index", KvFormat::fp8, IndexFormat::fp8},
                             {"bf16", KvFormat::bf16, IndexFormat::bf16}};

void add_shapes(const Facts& facts, std::string* out) {
  const ModelConfig& c = facts.config;
  *out += fmt::format("{}\n\n", facts.path);
  *out += fmt::format("layers       {} and {} MTP; hidden {}, {} residual streams, vocabulary {}\n",
                      c.num_hidden_layers, c.num_nextn_predict_layers, c.hidden_size, c.hc_mult,
                      c.vocab_size);
  *out += fmt::format(
      "attention    {} heads of {} ({} rotary), query rank {}, output {} groups of rank {}, window "
      "{}\n",
      c.num_attention_heads, c.head_dim, c.qk_rope_head_dim, c.q_lora_rank, c.o_groups,
      c.o_lora_rank, c.sliding_window);
  *out += fmt::format("indexer      {} heads of {}, top {}\n", c.index_n_heads, c.index_head_dim,
                      c.index_topk);
  *out += fmt::format(
      "experts      {} of {}, and {} shared; width {}; {}\n", c.num_experts_per_tok,
      c.n_routed_experts, c.n_shared_experts, c.moe_intermediate_size,
      c.quantization_config.present
          ? fmt::format(
                "{} experts, other linears FP8 in {}x{} blocks, {} scales",
                expert_dtype_name(c.expert_dtype), c.quantization_config.block_rows,
                c.quantization_config.block_columns,
                c.quantization_config.scale_fmt.empty() ? "F32" : c.quantization_config.scale_fmt)
          : "not quantised");
  *out += "kinds        ";
  for (const auto& [kind, count] : layer_kinds(facts))
    *out += fmt::format("{} x ({})  ", count, kind);
  *out += "\n";
}

void add_parameters(const Facts& facts, std::string* out) {
  const ParameterCount& p = facts.parameters;
  *out += fmt::format("\nparameters   {} total, {} active per token\n", short_count(p.main),
                      short_count(p.active));
  for (size_t i = 0; i < p.by_component.size(); ++i) {
    const auto component = static_cast<Component>(i);
    if (p.by_component[i] == 0 || component == Component::mtp || component == Component::hash_table)
      continue;
    *out += fmt::format("  {:<18} {:>22}\n", component_name(component), grouped(p.by_component[i]));
  }
  *out += fmt::format("  {:<18} {:>22}\n", "main network", grouped(p.main));
  *out += fmt::format("  {:<18} {:>22}\n", "MTP blocks", grouped(p.mtp));
  *out += fmt::format("  {:<18} {:>22}\n", "active", grouped(p.active));
  *out += fmt::format("  {:<18} {:>22}\n", "  with embedding", grouped(p.active + p.embedding));
}

void add_files(const Facts& facts, std::string* out) {
  *out += facts.has_checkpoint
              ? fmt::format("\nfiles        {} tensors in {} files, {} bytes with headers\n",
                            grouped(facts.stored.num_tensors), facts.num_files,
                            grouped(facts.file_bytes))
              : fmt::format("\nfiles        none here; in the configuration's layout {} tensors\n",
                            grouped(facts.stored.num_tensors));
  for (const auto& [dtype, bytes] : facts.stored.bytes) {
    const std::string name =
        dtype == DType::i8 ? "I8 (FP4 pairs)" : std::string(tensor::dtype_name(dtype));
    *out += fmt::format("  {:<18} {:>22} elements {:>20} bytes\n", name,
                        grouped(facts.stored.elements.at(dtype)), grouped(bytes));
  }
  *out += fmt::format("  {:<18} {:>53} bytes\n", "tensor data", grouped(facts.stored.total));
  if (!facts.problem.empty()) *out += fmt::format("  problem: {}\n", facts.problem);
  if (!facts.unknown.empty()) {
    *out += fmt::format("  {} tensors that the configuration does not know, the first: {}\n",
                        facts.unknown.size(), facts.unknown[0]);
  }
}

void add_cache(const Facts& facts, std::string* out) {
  const ModelConfig& c = facts.config;
  const double reference = v32_kv_bytes_per_token();
  *out += "\ncache        bytes per token of context\n";
  for (const Cache& cache : kCaches) {
    const double bytes = kv_bytes_per_token(c, cache.kv, cache.index);
    *out += fmt::format("  {:<22} {:>10}   {:6.2f} % of V3.2's {:.0f}; at 1,048,576 tokens {}\n",
                        cache.name, grouped_real(bytes), bytes / reference * 100, reference,
                        short_bytes(bytes * 1048576));
  }
  const StateBytes state = state_bytes(c, KvFormat::fp8);
  *out += fmt::format(
      "state        bytes per sequence: windows {} (bf16 {}), MTP windows {}, compressor tails "
      "{}\n",
      grouped(state.window), grouped(state_bytes(c, KvFormat::bf16).window),
      grouped(state.mtp_window), grouped(state.compressor));
}

// What a device needs for one sequence, but for the room that a step works in.
void add_memory(const Facts& facts, std::string* out) {
  const ModelConfig& c = facts.config;
  const StateBytes state = state_bytes(c, KvFormat::fp8);
  const auto weights = static_cast<double>(facts.stored.total);
  const auto fixed = static_cast<double>(state.window + state.mtp_window + state.compressor);
  const Unit unit = unit_of(weights);
  *out += fmt::format(
      "\nmemory       {}B of one sequence, cache with FP8 rows and FP4 index; a step's own room "
      "comes on top\n"
      "  {:>10} {:>9} {:>9} {:>9} {:>9}\n",
      unit.prefix, "context", "weights", "cache", "state", "total");
  for (const double context : kContexts) {
    const double cache = kv_bytes_per_token(c, KvFormat::fp8, IndexFormat::fp4) * context;
    *out +=
        fmt::format("  {:>10} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f}\n",
                    grouped(static_cast<int64_t>(context)), weights / unit.size, cache / unit.size,
                    fixed / unit.size, (weights + cache + fixed) / unit.size);
  }
}

void add_flops(const Facts& facts, std::string* out) {
  const Unit unit = unit_of(token_flops(facts.config, facts.parameters, kContexts[0]).total());
  *out += fmt::format(
      "\nFLOPs        {}FLOP per generated token, FP8-equivalent (bf16 counts 2, FP4 x FP4 counts "
      "1/2)\n",
      unit.prefix);
  *out +=
      fmt::format("  {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  {:>10}  {}\n", "context",
                  "weights", "window", "CSA", "HCA", "full", "indexer", "total", "V3.2", "of it");
  for (const double context : kContexts) {
    const TokenFlops f = token_flops(facts.config, facts.parameters, context);
    const double v32 = v32_token_flops(context).total();
    *out += fmt::format(
        "  {:>10} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f} {:>9.2f}  {:>10.2f}  "
        "{:6.2f} %\n",
        grouped(static_cast<int64_t>(context)), f.weights / unit.size, f.window / unit.size,
        f.csa / unit.size, f.hca / unit.size, f.full / unit.size, f.indexer / unit.size,
        f.total() / unit.size, v32 / unit.size, f.total() / v32 * 100);
  }
}

std::string text_report(const Facts& facts) {
  std::string out;
  add_shapes(facts, &out);
  add_parameters(facts, &out);
  add_files(facts, &out);
  add_cache(facts, &out);
  add_memory(facts, &out);
  add_flops(facts, &out);
  return out;
}

json::object json_parameters(const ParameterCount& p) {
  json::object out;
  for (size_t i = 0; i < p.by_component.size(); ++i)
    out[component_name(static_cast<Component>(i))] = p.by_component[i];
  out["total"] = p.main;
  out["mtp"] = p.mtp;
  out["active"] = p.active;
  out["active_with_embedding"] = p.active + p.embedding;
  out["active_quantised"] = p.active_quantised;
  out["active_wide"] = p.active_wide;
  return out;
}

std::string json_report(const Facts& facts) {
  json::object out;
  out["path"] = facts.path;
  out["config"] = to_json(facts.config);
  json::array& layers = out["layers"].emplace_array();
  for (const LayerConfig& layer : facts.layers) {
    layers.push_back({{"attention", attention_kind_name(layer.attention)},
                      {"ratio", layer.ratio},
                      {"ffn", ffn_kind_name(layer.ffn)},
                      {"residual", residual_kind_name(layer.residual)},
                      {"kv_source", layer.kv_source},
                      {"index_source", layer.index_source},
                      {"is_mtp", layer.is_mtp}});
  }
  out["parameters"] = json_parameters(facts.parameters);
  json::object& files = out["files"].emplace_object();
  files["present"] = facts.has_checkpoint;
  files["tensors"] = facts.stored.num_tensors;
  files["data_bytes"] = facts.stored.total;
  if (facts.has_checkpoint) {
    files["count"] = facts.num_files;
    files["bytes"] = facts.file_bytes;
    if (!facts.problem.empty()) files["problem"] = facts.problem;
    files["unknown"] = json::array(facts.unknown.begin(), facts.unknown.end());
  }
  json::object& dtypes = files["dtypes"].emplace_object();
  for (const auto& [dtype, bytes] : facts.stored.bytes) {
    dtypes[tensor::dtype_name(dtype)] = {{"elements", facts.stored.elements.at(dtype)},
                                         {"bytes", bytes}};
  }
  const ModelConfig& c = facts.config;
  const StateBytes state = state_bytes(c, KvFormat::fp8);
  out["kv_bytes_per_token"] = {
      {"native", kv_bytes_per_token(c, KvFormat::fp8, IndexFormat::fp4)},
      {"fp8_index", kv_bytes_per_token(c, KvFormat::fp8, IndexFormat::fp8)},
      {"bf16", kv_bytes_per_token(c, KvFormat::bf16, IndexFormat::bf16)},
      {"v32", v32_kv_bytes_per_token()}};
  out["state_bytes"] = {
      {"window", state.window}, {"mtp_window", state.mtp_window}, {"compressor", state.compressor}};
  json::array& flops = out["flops_per_token"].emplace_array();
  for (const double context : kContexts) {
    const TokenFlops f = token_flops(c, facts.parameters, context);
    const double v32 = v32_token_flops(context).total();
    flops.push_back({{"context", static_cast<int64_t>(context)},
                     {"weights", f.weights},
                     {"window", f.window},
                     {"csa", f.csa},
                     {"hca", f.hca},
                     {"full", f.full},
                     {"indexer", f.indexer},
                     {"total", f.total()},
                     {"v32_total", v32},
                     {"of_v32", f.total() / v32}});
  }
  return to_pretty_json(out);
}

}  // namespace

Result<std::string> inspect(const InspectOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(const Facts facts, gather(options.path));
  if (!options.svg_directory.empty()) {
    CACHALOT_RETURN_IF_ERROR(
        write_cost_curves(options.svg_directory, facts.config, facts.parameters));
  }
  return options.json ? json_report(facts) : text_report(facts);
}

}  // namespace cachalot::apps
