#include "train/train_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <sstream>

#include "base/closest.h"
#include "base/sha256.h"
#include "formats/json_fields.h"
#include "formats/presets.h"
#include "train/preset_schedule.h"
#include "train/training_precision.h"

namespace cachalot::train {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kMaxTokens = int64_t{1} << 50;  // their doubles are exact
constexpr double kBig = 1e30;
constexpr int64_t kFewSteps = 20;

// With the keys of every table in the order of their bytes: files and assignments have given them
// in any.
json::value sorted(const json::value& value) {
  if (value.is_array()) {
    json::array out;
    for (const json::value& element : value.get_array()) out.push_back(sorted(element));
    return out;
  }
  if (!value.is_object()) return value;
  std::map<std::string_view, const json::value*> by_key;
  for (const auto& [key, inner] : value.get_object()) by_key[key] = &inner;
  json::object out;
  for (const auto& [key, inner] : by_key) out[key] = sorted(*inner);
  return out;
}

// "a.b" of "b" where one key of the configuration ends so, or a field of its model; else empty.
std::string path_ending_in(const std::string& name);

// A list of the configuration's fields is written once, as visit(); a reader and a printer walk it.
// `Value` members have the same names and arguments in both.
class Reader {
 public:
  explicit Reader(const ConfigTree& tree) : tree_(tree) { levels_.push_back({&tree.root, "", {}}); }

  void integer(const char* key, int64_t* out, int64_t min, int64_t max) {
    known(key);
    fields(key, [&](formats::JsonFields& f) { f.integer(key, out, min, max); });
  }
  void seed(const char* key, uint64_t* out) {
    auto value = static_cast<int64_t>(*out);
    integer(key, &value, 0, kMax);
    *out = static_cast<uint64_t>(value);
  }
  void real(const char* key, double* out, double min, double max) {
    known(key);
    fields(key, [&](formats::JsonFields& f) { f.real(key, out, min, max); });
  }
  void boolean(const char* key, bool* out) {
    known(key);
    fields(key, [&](formats::JsonFields& f) { f.boolean(key, out); });
  }
  void text(const char* key, std::string* out) {
    known(key);
    fields(key, [&](formats::JsonFields& f) { f.text(key, out); });
  }
  void choice(const char* key, std::string* out, const std::vector<std::string_view>& allowed) {
    known(key);
    fields(key, [&](formats::JsonFields& f) { f.choice(key, out, allowed); });
  }
  void table(const char* key, const std::function<void()>& visit) {
    known(key);
    const json::value* value = find(key);
    if (value == nullptr) return;
    if (!value->is_object()) return fail(key, "a table", formats::json_excerpt(*value));
    enter(value->get_object(), path(key), visit);
  }
  template <typename T>
  void tables(const char* key, std::vector<T>* out, const std::function<void(T&)>& visit) {
    known(key);
    const json::value* value = find(key);
    if (value == nullptr) return;
    if (!value->is_array()) return fail(key, "an array of tables", formats::json_excerpt(*value));
    out->clear();
    for (const json::value& element : value->get_array()) {
      if (!element.is_object())
        return fail(key, "an array of tables", formats::json_excerpt(element));
      T& item = out->emplace_back();
      enter(element.get_object(), fmt::format("{}.{}", path(key), out->size() - 1),
            [&] { visit(item); });
    }
  }
  // What the keys of this table that no other call names say.
  void rest(json::object* out) {
    json::object others;
    for (const auto& [key, value] : *levels_.back().object) {
      const auto& known = levels_.back().known;
      if (std::find(known.begin(), known.end(), std::string_view(key)) == known.end())
        others[key] = value;
    }
    *out = sorted(others).get_object();
    for (const auto& [key, value] : *out) known(std::string(key));
  }

  // Of every key, in the order of their reading.
  std::vector<Status> finish() {
    check_unknown();
    return std::move(errors_);
  }

 private:
  struct Level {
    const json::object* object;
    std::string path;
    std::vector<std::string> known;
  };
  std::string path(std::string_view key) const { return path_below(levels_.back().path, key); }
  std::string origin(std::string_view key) const { return origin_of(tree_.origins, path(key)); }
  void known(std::string key) { levels_.back().known.push_back(std::move(key)); }
  const json::value* find(std::string_view key) const {
    return levels_.back().object->if_contains(key);
  }
  void fields(const char* key, const std::function<void(formats::JsonFields&)>& read) {
    if (find(key) == nullptr) return;
    const std::string where = origin(key);
    const std::string& table = levels_.back().path;
    const std::string prefix = table.empty() ? table : table + ".";
    formats::JsonFields json(*levels_.back().object, where, prefix);
    read(json);
    if (!json.status().ok()) errors_.push_back(json.status());
  }
  void fail(const std::string& key, std::string_view expected, std::string_view found) {
    errors_.push_back(invalid_argument(
        fmt::format("{}: {}: expected {}, found {}", origin(key), path(key), expected, found)));
  }
  void enter(const json::object& object, std::string path, const std::function<void()>& visit) {
    levels_.push_back({&object, std::move(path), {}});
    visit();
    check_unknown();
    levels_.pop_back();
  }
  void check_unknown() {
    const Level& level = levels_.back();
    for (const auto& [key, value] : *level.object) {
      const std::string name(key);
      if (std::find(level.known.begin(), level.known.end(), name) != level.known.end()) continue;
      std::string near = level.path.empty() ? path_ending_in(name) : std::string();
      if (near.empty()) near = closest(name, level.known);
      fail(name, near.empty() ? "a known key" : fmt::format("a known key (\"{}\"?)", near),
           fmt::format("\"{}\"", name));
    }
  }

  const ConfigTree& tree_;
  std::vector<Level> levels_;
  std::vector<Status> errors_;
};

class Printer {
 public:
  void integer(const char* key, const int64_t* value, int64_t, int64_t) { (*at_)[key] = *value; }
  void seed(const char* key, const uint64_t* value) { (*at_)[key] = static_cast<int64_t>(*value); }
  void real(const char* key, const double* value, double, double) { (*at_)[key] = *value; }
  void boolean(const char* key, const bool* value) { (*at_)[key] = *value; }
  void text(const char* key, const std::string* value) { (*at_)[key] = *value; }
  void choice(const char* key, const std::string* value, const std::vector<std::string_view>&) {
    (*at_)[key] = *value;
  }
  void table(const char* key, const std::function<void()>& visit) {
    json::object inside;
    fill(inside, visit);
    (*at_)[key] = std::move(inside);
  }
  template <typename T>
  void tables(const char* key, std::vector<T>* items, const std::function<void(T&)>& visit) {
    json::array out;
    for (T& item : *items) {
      json::object inside;
      fill(inside, [&] { visit(item); });
      out.push_back(std::move(inside));
    }
    (*at_)[key] = std::move(out);
  }
  void rest(const json::object* fields) {
    for (const auto& [key, value] : *fields) (*at_)[key] = value;
  }
  const json::object& root() const { return root_; }

 private:
  void fill(json::object& inside, const std::function<void()>& visit) {
    json::object* const outer = std::exchange(at_, &inside);
    visit();
    at_ = outer;
  }
  json::object root_;
  json::object* at_ = &root_;
};

template <typename Visitor>
void visit_schedule(Visitor& v, TrainConfig& c) {
  v.table("learning_rate", [&] {
    optim::LearningRateSchedule& s = c.schedule.learning_rate;
    v.choice("course", &c.learning_rate_course, {"constant", "budget"});
    v.real("peak", &s.peak, 0, 1);
    v.integer("warmup_steps", &s.warmup_steps, 0, kMax);
    v.integer("decay_begin_tokens", &s.decay_begin_tokens, 0, kMax);
    v.integer("decay_end_tokens", &s.decay_end_tokens, 0, kMax);
    v.real("floor_fraction", &s.floor_fraction, 0, 1);
  });
  v.table("mtp", [&] {
    v.real("before_decay", &c.schedule.mtp.before_decay, 0, 100);
    v.real("from_decay", &c.schedule.mtp.from_decay, 0, 100);
  });
  v.template tables<optim::SequenceStage>(
      "sequence", &c.schedule.sequence, [&](optim::SequenceStage& stage) {
        v.integer("from_tokens", &stage.from_tokens, 0, kMaxTokens);
        v.integer("sequence_length", &stage.sequence_length, 1, int64_t{1} << 31);
      });
  v.table("batch", [&] {
    optim::BatchSchedule& s = c.schedule.batch;
    v.integer("first_batch_tokens", &s.first_batch_tokens, 1, kMaxTokens);
    v.integer("batch_tokens", &s.batch_tokens, 1, kMaxTokens);
    v.integer("ramp_tokens", &s.ramp_tokens, 0, kMaxTokens);
    v.integer("total_tokens", &s.total_tokens, 0, kMaxTokens);
  });
  v.integer("micro_batch_tokens", &c.micro_batch_tokens, 1, kMaxTokens);
  v.table("attention", [&] {
    optim::AttentionSchedule& s = c.schedule.attention;
    v.integer("dense_tokens", &s.dense_tokens, 0, kMax);
    v.integer("indexer_warmup_tokens", &s.indexer_warmup_tokens, 0, kMax);
    v.real("indexer_warmup_learning_rate", &s.indexer_warmup_learning_rate, 0, 1);
  });
}

template <typename Visitor>
void visit_optimizer(Visitor& v, TrainConfig& c) {
  optim::OptimizerConfig& o = c.optimizer;
  v.choice("kind", &c.optimizer_kind, {"muon", "adamw"});
  v.real("max_grad_norm", &o.max_grad_norm, 0, kBig);
  v.boolean("split_heads", &o.grouping.split_heads);
  v.boolean("decay_vectors", &o.grouping.decay_vectors);
  v.table("muon", [&] {
    v.real("momentum", &o.muon.momentum, 0, 1);
    v.real("weight_decay", &o.muon.weight_decay, 0, kBig);
    v.real("update_rms", &o.muon.update_rms, 0, kBig);
    v.boolean("round_operands", &o.muon.round_operands);
  });
  v.table("adamw", [&] {
    v.real("beta1", &o.adamw.beta1, 0, 1);
    v.real("beta2", &o.adamw.beta2, 0, 1);
    v.real("eps", &o.adamw.eps, 0, 1);
    v.real("weight_decay", &o.adamw.weight_decay, 0, kBig);
  });
}

template <typename Visitor>
void visit(Visitor& v, TrainConfig& c) {
  v.seed("seed", &c.seed);
  v.text("run_dir", &c.run_dir);
  v.text("tokenizer", &c.tokenizer);
  v.choice("precision", &c.precision, {"fp32", "bf16", "fp8"});
  v.boolean("qat", &c.qat);
  v.table("model", [&] {
    v.text("preset", &c.model.preset);
    v.text("config", &c.model.config);
    v.text("init_from", &c.model.init_from);
    v.rest(&c.model.fields);
  });
  v.table("init", [&] {
    v.real("std", &c.init.std, 0, 10);
    v.real("hc_gate", &c.init.hc_gate, -10, 10);
  });
  v.template tables<DataEntry>("data", &c.data, [&](DataEntry& entry) {
    v.text("name", &entry.name);
    v.text("path", &entry.path);
    v.choice("format", &entry.format, {"auto", "cachalot", "nanogpt", "megatron"});
    v.real("weight", &entry.weight, 1e-9, kBig);
  });
  v.template tables<DataEntry>("validation", &c.validation, [&](DataEntry& entry) {
    v.text("name", &entry.name);
    v.text("path", &entry.path);
    v.choice("format", &entry.format, {"auto", "cachalot", "nanogpt", "megatron"});
  });
  v.table("loader", [&] {
    v.integer("window_packs", &c.loader.window_packs, 1, int64_t{1} << 32);
    v.boolean("shuffle", &c.loader.shuffle);
    v.real("fim_rate", &c.loader.fim_rate, 0, 1);
    v.integer("fim_keep_first", &c.loader.fim_keep_first, 0, 1024);
    v.integer("fim_keep_last", &c.loader.fim_keep_last, 0, 1024);
  });
  v.table("evaluate", [&] {
    v.integer("every_steps", &c.evaluate.every_steps, 0, kMax);
    v.integer("max_tokens", &c.evaluate.max_tokens, 1, kMax);
    v.integer("sample_tokens", &c.evaluate.sample_tokens, 0, 4096);
  });
  v.table("schedule", [&] { visit_schedule(v, c); });
  v.table("recompute", [&] {
    v.text("tensors", &c.recompute.tensors);
    v.integer("block_sublayers", &c.recompute.block_sublayers, 0, 1 << 20);
    v.integer("logit_rows", &c.recompute.logit_rows, 0, kMax);
  });
  v.table("losses", [&] {
    v.real("balance_alpha", &c.losses.balance_alpha, 0, kBig);
    v.real("bias_update_rate", &c.losses.bias_update_rate, 0, kBig);
    v.real("indexer", &c.losses.indexer, 0, kBig);
  });
  v.table("optimizer", [&] { visit_optimizer(v, c); });
  v.table("anticipation", [&] {
    TrainConfig::Anticipation& a = c.anticipation;
    v.boolean("enabled", &a.enabled);
    v.integer("delta_steps", &a.delta_steps, 0, 1 << 20);
    v.integer("rollback_margin_steps", &a.rollback_margin_steps, 0, kMax);
    v.integer("hold_steps", &a.hold_steps, 1, kMax);
    v.table("detector", [&] {
      v.integer("window", &a.detector.window, 1, 1 << 20);
      v.integer("min_steps", &a.detector.min_steps, 1, 1 << 20);
      v.real("loss_mad", &a.detector.loss_mad, 0, kBig);
      v.real("grad_norm_ratio", &a.detector.grad_norm_ratio, 0, kBig);
    });
  });
  v.table("checkpoint", [&] {
    v.integer("every_steps", &c.checkpoint.every_steps, 1, kMax);
    v.integer("keep_last", &c.checkpoint.keep_last, 1, kMax);
    v.integer("keep_every_steps", &c.checkpoint.keep_every_steps, 0, kMax);
  });
  v.table("log", [&] {
    v.integer("every_steps", &c.log.every_steps, 1, kMax);
    v.integer("update_rms_every_steps", &c.log.update_rms_every_steps, 0, kMax);
    v.integer("spectrum_every_steps", &c.log.spectrum_every_steps, 0, kMax);
    v.boolean("tensorboard", &c.log.tensorboard);
    v.real("peak_gflops", &c.log.peak_gflops, 0, kBig);
  });
}

json::object printed(const TrainConfig& config) {
  Printer printer;
  TrainConfig copy = config;
  visit(printer, copy);
  return printer.root();
}

void collect_paths(const json::object& table, const std::string& path, std::string_view name,
                   std::vector<std::string>& out) {
  for (const auto& [key, value] : table) {
    const std::string inner = path_below(path, key);
    if (key == name) out.push_back(inner);
    if (value.is_object()) collect_paths(value.get_object(), inner, name, out);
  }
}

std::string path_ending_in(const std::string& name) {
  std::vector<std::string> paths;
  collect_paths(printed(TrainConfig()), "", name, paths);
  collect_paths(formats::to_json(formats::nano_config()), "model", name, paths);
  return paths.size() == 1 ? paths[0] : std::string();
}

// Without what changes no bit of a run.
json::object deciding(json::object fields) {
  fields.erase("run_dir");
  fields.erase("recompute");
  return fields;
}

Status below(std::string_view path, const Status& error) {
  return {error.code(), fmt::format("{}{}", path, error.message())};
}

// The errors that formats::joined() has put together, each below a path.
std::vector<Status> each_below(std::string_view path, const Status& joined) {
  std::vector<Status> errors;
  std::istringstream lines(joined.message());
  for (std::string line; std::getline(lines, line);)
    errors.push_back(below(path, {joined.code(), std::move(line)}));
  return errors;
}

// Nothing, and what is wrong, where there is no such model.
std::optional<json::object> base_fields(const TrainConfig::Model& model,
                                        std::vector<Status>& errors) {
  const auto given = static_cast<int>(!model.preset.empty()) +
                     static_cast<int>(!model.config.empty()) +
                     static_cast<int>(!model.init_from.empty());
  if (given != 1) {
    errors.push_back(invalid_argument(
        fmt::format("model: expected one of preset, config and init_from, found {}", given)));
    return std::nullopt;
  }
  if (!model.preset.empty()) {
    const Result<formats::ModelConfig> preset = formats::preset_config(model.preset);
    if (preset) return formats::to_json(*preset);
    errors.push_back(below("model.", preset.error()));
    return std::nullopt;
  }
  const bool from_config = !model.config.empty();
  const Result<formats::ModelConfig> read =
      formats::load_config(from_config ? model.config : model.init_from);
  if (read) return formats::to_json(*read);
  errors = each_below(from_config ? "model.config: " : "model.init_from: ", read.error());
  return std::nullopt;
}

// Laid over the base as config.json's own keys; an ablation object may be new. Keys that are none
// are left out and told.
void lay_over(json::object& base, const json::object& fields, const Origins& origins,
              std::vector<Status>& errors) {
  std::vector<std::string> known = {"cachalot", "quantization_config", "expert_dtype"};
  for (const auto& [key, value] : base) known.emplace_back(key);
  for (const auto& [key, value] : fields) {
    if (std::find(known.begin(), known.end(), std::string_view(key)) == known.end()) {
      const std::string near = closest(std::string(key), known);
      const std::string path = path_below("model", key);
      errors.push_back(printable(invalid_argument(fmt::format(
          "{}: {}: expected a field of config.json{}, found none of that name",
          origin_of(origins, path), path, near.empty() ? "" : fmt::format(" (\"{}\"?)", near)))));
      continue;
    }
    json::value* old = base.if_contains(key);
    if (old != nullptr && old->is_object() && value.is_object()) {
      for (const auto& [name, inner] : value.get_object()) old->get_object()[name] = inner;
    } else {
      base[key] = value;
    }
  }
}

// What is wrong with the model, all of it; nothing where `model` has become it.
std::vector<Status> read_model(const TrainConfig::Model& given, const Origins& origins,
                               formats::ModelConfig* model) {
  std::vector<Status> errors;
  std::optional<json::object> fields = base_fields(given, errors);
  if (!fields) {
    for (Status& error : errors) error = located(error, origins);
    return errors;
  }
  lay_over(*fields, given.fields, origins, errors);
  Result<formats::ModelConfig> read = formats::parse_config(*fields, "model");
  if (read) {
    *model = *std::move(read);
    return errors;
  }
  // "model: head_dim: expected ..." becomes "run.toml:7: model.head_dim: expected ...".
  for (const Status& error : each_below("", read.error())) {
    std::string message = error.message();
    message.replace(message.find(": "), 2, ".");
    errors.push_back(located({error.code(), std::move(message)}, origins));
  }
  return errors;
}

void check_entries(std::string_view key, const std::vector<DataEntry>& entries,
                   std::vector<Status>& errors) {
  for (size_t i = 0; i < entries.size(); ++i) {
    const DataEntry& entry = entries[i];
    if (!entry.path.empty() && !entry.name.empty()) continue;
    errors.push_back(
        invalid_argument(fmt::format("{}.{}: expected a name and a path, found name \"{}\", path "
                                     "\"{}\"",
                                     key, i, entry.name, entry.path)));
  }
}

// Of keys that decide defaults, before the configuration is read; empty and 0 where there is no
// such value.
std::string text_at(const ConfigTree& tree, std::string_view path) {
  const json::value* value = find(tree, path);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}
int64_t integer_at(const ConfigTree& tree, std::string_view path) {
  const json::value* value = find(tree, path);
  return value != nullptr && value->is_int64() ? value->get_int64() : 0;
}

// What no key shows alone.
std::vector<Status> check(const TrainConfig& config, Corpora corpora) {
  const bool reads = corpora == Corpora::read;
  std::vector<Status> errors;
  if (config.run_dir.empty())
    errors.push_back(invalid_argument("run_dir: expected a directory, found none"));
  if (reads && config.data.empty())
    errors.push_back(invalid_argument("data: expected at least one entry, found none"));
  check_entries("data", config.data, errors);
  check_entries("validation", config.validation, errors);
  if (const auto precision = parse_training_precision(config.precision, config.qat); !precision)
    errors.push_back(precision.error());
  const Status schedule = optim::validate(config.schedule);
  if (!schedule.ok()) errors.push_back(below("schedule.", schedule));
  if (reads && config.schedule.batch.total_tokens == 0) {
    errors.push_back(
        invalid_argument("schedule.batch.total_tokens: expected the tokens to train on, as in "
                         "--schedule.batch.total_tokens=8000000, found none"));
  }
  if (const auto plan = recompute_plan(config); !plan) errors.push_back(plan.error());
  return errors;
}

}  // namespace

Result<TrainConfig> train_config_from(const ConfigTree& tree, Corpora corpora) {
  TrainConfig config;
  fit_to_preset(text_at(tree, "model.preset"), integer_at(tree, "schedule.batch.total_tokens"),
                integer_at(tree, "schedule.batch.batch_tokens"), &config);
  Reader reader(tree);
  visit(reader, config);
  std::vector<Status> errors = reader.finish();
  for (Status& error : errors) error = printable(error);
  config.init.seed = config.seed;
  config.optimizer.grouping.muon = config.optimizer_kind == "muon";
  if (config.learning_rate_course == "budget") {
    optim::LearningRateSchedule& s = config.schedule.learning_rate;
    const optim::LearningRateSchedule budget =
        optim::learning_rate_for_budget(s.peak, config.schedule.batch.total_tokens);
    s.decay_begin_tokens = budget.decay_begin_tokens;
    s.decay_end_tokens = budget.decay_end_tokens;
  }
  // A value that was not read leaves a default, of which there is nothing to say.
  const std::vector<Status> unread = errors;
  for (const Status& error : check(config, corpora)) {
    const std::string_view key =
        std::string_view(error.message()).substr(0, error.message().find(':'));
    bool is_told = false;
    for (size_t end = key.size(); end != std::string_view::npos && end > 0;
         end = key.rfind('.', end - 1)) {
      const std::string named = fmt::format(": {}: ", key.substr(0, end));
      is_told |= std::any_of(unread.begin(), unread.end(), [&](const Status& told) {
        return told.message().find(named) != std::string::npos;
      });
    }
    if (!is_told) errors.push_back(located(error, tree.origins));
  }
  // A model of a file is read where it is needed.
  const bool is_model_read = std::ranges::none_of(unread, [](const Status& told) {
    return told.message().find(": model:") != std::string::npos ||
           told.message().find(": model.") != std::string::npos;
  });
  if (is_model_read && config.model.config.empty() && config.model.init_from.empty()) {
    formats::ModelConfig ignored;
    std::ranges::move(read_model(config.model, tree.origins, &ignored), std::back_inserter(errors));
  }
  CACHALOT_RETURN_IF_ERROR(formats::joined(errors));
  config.origins = tree.origins;
  return config;
}

Result<TrainConfig> read_train_config(std::span<const std::string> files,
                                      std::span<const std::string> assignments) {
  CACHALOT_ASSIGN_OR_RETURN(const ConfigTree tree, read_config_tree(files, assignments));
  return train_config_from(tree);
}

std::string resolved_toml(const TrainConfig& config) { return to_toml(printed(config)); }

std::string config_hash(const TrainConfig& config) {
  return sha256_hex(to_toml(deciding(printed(config))));
}

Result<std::vector<std::string>> differences_from(const TrainConfig& config,
                                                  std::string_view resolved_toml) {
  CACHALOT_ASSIGN_OR_RETURN(ConfigTree before, parse_config_tree(resolved_toml, "run.toml"));
  return config_differences(deciding(std::move(before.root)), deciding(printed(config)));
}

std::vector<std::string> budget_notes(const TrainConfig& config) {
  std::vector<std::string> notes;
  const optim::TrainingSchedule& schedule = config.schedule;
  const int64_t total = schedule.batch.total_tokens;
  int64_t steps = 0;
  for (int64_t seen = 0; seen < total && steps < kFewSteps; ++steps)
    seen += optim::training_point(schedule, steps, seen).step_tokens;
  if (steps < kFewSteps) {
    notes.push_back(
        fmt::format("the run has {} step{}: schedule.batch.total_tokens = {} in steps of up to "
                    "schedule.batch.batch_tokens = {}",
                    steps, steps == 1 ? "" : "s", total, schedule.batch.batch_tokens));
  }
  const int64_t warmup = schedule.learning_rate.warmup_steps;
  if (const int64_t most = total / schedule.batch.batch_tokens; warmup > most) {
    notes.push_back(fmt::format(
        "the learning rate does not reach its peak: schedule.learning_rate.warmup_steps = {} in a "
        "run of about {} steps",
        warmup, std::max<int64_t>(most, steps)));
  }
  if (total <= schedule.attention.dense_tokens)
    notes.push_back("attention is dense to the end: schedule.attention.dense_tokens takes it all");
  return notes;
}

Result<formats::ModelConfig> model_config(const TrainConfig& config) {
  formats::ModelConfig model;
  CACHALOT_RETURN_IF_ERROR(formats::joined(read_model(config.model, config.origins, &model)));
  return model;
}

Result<model::RecomputePlan> recompute_plan(const TrainConfig& config) {
  CACHALOT_ASSIGN_OR_RETURN(model::RecomputePlan plan,
                            model::RecomputePlan::parse(config.recompute.tensors));
  plan.block_sublayers = config.recompute.block_sublayers;
  plan.logit_rows = config.recompute.logit_rows;
  return plan;
}

optim::GroupingOptions grouping_of(const TrainConfig& config, const formats::ModelConfig& model) {
  optim::GroupingOptions out = config.optimizer.grouping;
  out.hc_mult = model.hc_mult;
  out.head_dim = model.head_dim;
  out.index_head_dim = model.index_head_dim;
  out.num_attention_heads = model.num_attention_heads;
  out.index_n_heads = model.index_n_heads;
  out.o_groups = model.o_groups;
  return out;
}

}  // namespace cachalot::train
