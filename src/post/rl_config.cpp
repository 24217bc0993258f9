#include "post/rl_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/closest.h"
#include "base/sha256.h"
#include "formats/json_fields.h"

namespace cachalot::post {
namespace {

constexpr int64_t kMany = int64_t{1} << 40;
constexpr double kBig = 1e30;
constexpr char kDefault[] = "default";

void set_defaults(train::ConfigTree& tree) {
  const auto set = [&](std::string_view path, json::value value) {
    train::set_if_absent(tree, path, std::move(value), kDefault);
  };
  set("optimizer.kind", "adamw");
  set("optimizer.adamw.weight_decay", 0.0);
  set("schedule.learning_rate.peak", 3e-6);
  set("schedule.learning_rate.warmup_steps", 0);
  set("schedule.learning_rate.course", "constant");
  set("schedule.learning_rate.decay_begin_tokens", std::numeric_limits<int64_t>::max());
  set("schedule.learning_rate.decay_end_tokens", std::numeric_limits<int64_t>::max());
  set("losses.balance_alpha", 0.0);
  set("losses.bias_update_rate", 0.0);
  set("losses.indexer", 0.0);
}

// A table's keys, each of which a member below has named.
class Table {
 public:
  Table(const json::object& object, const train::ConfigTree& tree, std::string path)
      : object_(object),
        origin_(train::origin_of(tree.origins, path)),
        prefix_(path + "."),
        fields_(object, origin_, prefix_) {}

  formats::JsonFields& key(const char* name) {
    known_.emplace_back(name);
    return fields_;
  }
  void integer(const char* name, int64_t* out, int64_t min, int64_t max) {
    key(name).integer(name, out, min, max);
  }
  void real(const char* name, double* out, double min, double max) {
    key(name).real(name, out, min, max);
  }
  void boolean(const char* name, bool* out) { key(name).boolean(name, out); }
  void text(const char* name, std::string* out) { key(name).text(name, out); }
  void choice(const char* name, std::string* out, const std::vector<std::string_view>& allowed) {
    key(name).choice(name, out, allowed);
  }
  Status finish() {
    for (const auto& [name, value] : object_) {
      if (std::ranges::find(known_, std::string_view(name)) != known_.end()) continue;
      const std::string near = closest(std::string(name), known_);
      fields_.fail(name, near.empty() ? "a known key" : fmt::format("a known key (\"{}\"?)", near),
                   fmt::format("\"{}\"", std::string_view(name)));
    }
    return fields_.status();
  }

 private:
  const json::object& object_;
  std::string origin_, prefix_;
  formats::JsonFields fields_;
  std::vector<std::string> known_;
};

Status read_task(const json::value& value, const train::ConfigTree& tree, size_t place,
                 int64_t max_new_tokens, TaskEntry* out) {
  const std::string path = fmt::format("rl.tasks.{}", place);
  if (!value.is_object())
    return invalid_argument(
        fmt::format("{}: expected a table, found {}", path, formats::json_excerpt(value)));
  Table table(value.get_object(), tree, path);
  out->max_new_tokens = max_new_tokens;
  table.text("path", &out->path);
  table.text("family", &out->family);
  out->name = out->path.empty() ? out->family : out->path;
  table.text("name", &out->name);
  table.integer("difficulty", &out->difficulty, 0, data::kMaxDifficulty);
  table.real("weight", &out->weight, 1e-9, kBig);
  table.choice("effort", &out->effort, {"none", "low", "high", "max"});
  table.integer("max_new_tokens", &out->max_new_tokens, 1, kMany);
  table.real("length_penalty", &out->length_penalty, 0, kBig);
  return table.finish();
}

Status read_rl(const json::object& object, const train::ConfigTree& tree, RlConfig& c) {
  Table t(object, tree, "rl");
  t.integer("steps", &c.steps, 1, kMany);
  t.integer("prompts_per_step", &c.prompts_per_step, 1, 1 << 20);
  t.integer("group_size", &c.group_size, 1, 1 << 16);
  t.integer("mini_batches", &c.mini_batches, 1, 1 << 16);
  t.integer("weights_every_steps", &c.weights_every_steps, 1, 1 << 20);
  t.integer("reference_every_steps", &c.reference_every_steps, 0, kMany);
  t.boolean("keep_routing", &c.keep_routing);
  t.boolean("keep_sampling_mask", &c.keep_sampling_mask);
  t.real("epsilon", &c.grpo.epsilon, 0, kBig);
  t.real("beta", &c.grpo.beta, 0, kBig);
  double delta = 0;
  t.real("delta", &delta, 0, kBig);
  if (object.contains("delta")) c.grpo.delta = delta;
  std::string kl = "unbiased", normalisation = "sequence_mean_token_mean", deviation = "none";
  t.choice("kl", &kl, {"unbiased", "plain"});
  t.choice("normalisation", &normalisation,
           {"sequence_mean_token_mean", "token_mean", "constant", "sequence_mean_token_sum"});
  t.real("constant", &c.grpo.constant, 1e-9, kBig);
  t.choice("deviation", &deviation, {"none", "population", "sample"});
  t.real("deviation_added", &c.advantage.added, 0, 1);
  t.real("temperature", &c.temperature, 1e-3, 100);
  t.real("top_p", &c.top_p, 1e-6, 1);
  t.real("min_p", &c.min_p, 0, 1);
  t.integer("top_k", &c.top_k, 0, 1 << 30);
  t.integer("num_drafts", &c.num_drafts, 0, 64);
  t.integer("max_sequences", &c.max_sequences, 2, 1 << 16);
  t.boolean("sync_log", &c.sync_log);
  t.choice("prompt_format", &c.prompt_format, {"chat", "raw"});
  t.text("chat_family", &c.chat_family);
  t.key("end_texts").texts("end_texts", &c.end_texts, 64);
  t.integer("max_turns", &c.max_turns, 1, 1 << 16);
  t.real("penalty_tokens", &c.penalty_tokens, 1e-9, kBig);
  t.real("penalty_most", &c.penalty_most, 0, kBig);
  int64_t max_new_tokens = 1024;
  t.integer("max_new_tokens", &max_new_tokens, 1, kMany);
  c.grpo.kl = kl == "plain" ? KlEstimator::plain : KlEstimator::unbiased;
  c.grpo.normalisation = normalisation == "token_mean" ? Normalisation::token_mean
                         : normalisation == "constant" ? Normalisation::constant
                         : normalisation == "sequence_mean_token_sum"
                             ? Normalisation::sequence_mean_token_sum
                             : Normalisation::sequence_mean_token_mean;
  c.advantage.deviation = deviation == "population" ? Deviation::population
                          : deviation == "sample"   ? Deviation::sample
                                                    : Deviation::none;
  const json::value* tasks = t.key("tasks").find("tasks");
  if (tasks == nullptr || !tasks->is_array() || tasks->get_array().empty())
    t.key("tasks").fail("tasks", "an array of tables", tasks == nullptr ? "none" : "another value");
  if (!object.contains("steps")) t.key("steps").fail("steps", "how many steps to take", "none");
  std::vector<Status> errors;
  if (const Status status = t.finish(); !status.ok()) errors.push_back(status);
  if (tasks != nullptr && tasks->is_array()) {
    for (const json::value& value : tasks->get_array()) {
      c.tasks.emplace_back();
      const Status status =
          read_task(value, tree, c.tasks.size() - 1, max_new_tokens, &c.tasks.back());
      if (!status.ok()) errors.push_back(status);
    }
  }
  if (c.mini_batches > c.prompts_per_step * c.group_size) {
    errors.push_back(invalid_argument(
        fmt::format("rl.mini_batches: expected at most the {} answers of a step, found {}",
                    c.prompts_per_step * c.group_size, c.mini_batches)));
  }
  return formats::joined(errors);
}

}  // namespace

Result<RlConfig> read_rl_config(std::span<const std::string> files,
                                std::span<const std::string> assignments) {
  CACHALOT_ASSIGN_OR_RETURN(train::ConfigTree tree, train::read_config_tree(files, assignments));
  set_defaults(tree);
  RlConfig config;
  config.resolved = train::to_toml(tree.root);
  const json::value* rl = tree.root.if_contains("rl");
  if (rl == nullptr || !rl->is_object())
    return invalid_argument("rl: expected a table [rl], found none");
  CACHALOT_RETURN_IF_ERROR(read_rl(rl->get_object(), tree, config));
  json::object deciding = tree.root;
  deciding.erase("run_dir");
  deciding.erase("recompute");
  config.hash = sha256_hex(train::to_toml(deciding));
  tree.root.erase("rl");
  CACHALOT_ASSIGN_OR_RETURN(config.train, train::train_config_from(tree, train::Corpora::not_read));
  if (config.train.checkpoint.every_steps % config.weights_every_steps != 0) {
    return invalid_argument(fmt::format(
        "checkpoint.every_steps: expected a multiple of rl.weights_every_steps = {}, so that a "
        "run resumes with weights that it samples with, found {}",
        config.weights_every_steps, config.train.checkpoint.every_steps));
  }
  return config;
}

}  // namespace cachalot::post
