#include "post/task_config.h"

#include <fmt/format.h>

#include <limits>

#include "base/sha256.h"

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

void read_task(ConfigTable& table, int64_t max_new_tokens, TaskEntry* out) {
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
}

void read_keys(ConfigTable& t, TaskRunConfig& c) {
  t.integer("steps", &c.steps, 1, kMany);
  t.integer("prompts_per_step", &c.prompts_per_step, 1, 1 << 20);
  t.integer("group_size", &c.group_size, 1, 1 << 16);
  t.integer("mini_batches", &c.mini_batches, 1, 1 << 16);
  t.integer("weights_every_steps", &c.weights_every_steps, 1, 1 << 20);
  t.real("temperature", &c.temperature, 1e-3, 100);
  t.real("top_p", &c.top_p, 1e-6, 1);
  t.real("min_p", &c.min_p, 0, 1);
  t.integer("top_k", &c.top_k, 0, 1 << 30);
  t.integer("num_drafts", &c.num_drafts, 0, 64);
  t.integer("max_sequences", &c.max_sequences, 2, 1 << 16);
  t.boolean("sync_log", &c.sync_log);
  t.choice("prompt_format", &c.prompt_format, {"chat", "raw"});
  t.text("chat_family", &c.chat_family);
  t.texts("end_texts", &c.end_texts, 64);
  t.integer("max_turns", &c.max_turns, 1, 1 << 16);
  t.real("penalty_tokens", &c.penalty_tokens, 1e-9, kBig);
  t.real("penalty_most", &c.penalty_most, 0, kBig);
  t.integer("judgements", &c.judgements, 1, 1 << 10);
  t.choice("judge_effort", &c.judge_effort, {"none", "low", "high", "max"});
  t.integer("judge_max_new_tokens", &c.judge_max_new_tokens, 1, kMany);
  t.integer("judge_prompt_tokens", &c.judge_prompt_tokens, 1, kMany);
  t.boolean("constrain_verdicts", &c.constrain_verdicts);
  int64_t max_new_tokens = 1024;
  t.integer("max_new_tokens", &max_new_tokens, 1, kMany);
  if (!t.has("steps")) t.key("steps").fail("steps", "how many steps to take", "none");
  t.tables("tasks",
           [&](ConfigTable& table) { read_task(table, max_new_tokens, &c.tasks.emplace_back()); });
  if (c.mini_batches > c.prompts_per_step * c.group_size) {
    t.add_error(invalid_argument(
        fmt::format("{}.mini_batches: expected at most the {} answers of a step, found {}", c.table,
                    c.prompts_per_step * c.group_size, c.mini_batches)));
  }
}

}  // namespace

std::string task_metric(std::span<const TaskEntry> tasks, size_t entry) {
  return fmt::format("task/{}.{}", entry, tasks[entry].name);
}

Status read_task_run_config(std::span<const std::string> files,
                            std::span<const std::string> assignments, const std::string& table,
                            const std::function<void(ConfigTable&)>& own_keys,
                            TaskRunConfig* config) {
  CACHALOT_ASSIGN_OR_RETURN(train::ConfigTree tree, train::read_config_tree(files, assignments));
  set_defaults(tree);
  config->table = table;
  config->resolved = train::to_toml(tree.root);
  const json::value* value = tree.root.if_contains(table);
  if (value == nullptr || !value->is_object())
    return invalid_argument(fmt::format("{0}: expected a table [{0}], found none", table));
  ConfigTable keys(value->get_object(), tree, table);
  read_keys(keys, *config);
  own_keys(keys);
  CACHALOT_RETURN_IF_ERROR(keys.finish());
  json::object deciding = tree.root;
  deciding.erase("run_dir");
  deciding.erase("recompute");
  config->hash = sha256_hex(train::to_toml(deciding));
  tree.root.erase(table);
  CACHALOT_ASSIGN_OR_RETURN(config->train,
                            train::train_config_from(tree, train::Corpora::not_read));
  const int64_t saves_every = config->train.checkpoint.every_steps;
  if (saves_every % config->weights_every_steps == 0) return {};
  return invalid_argument(fmt::format(
      "checkpoint.every_steps: expected a multiple of {}.weights_every_steps = {}, so that a run "
      "resumes with weights that it samples with, found {}",
      table, config->weights_every_steps, saves_every));
}

}  // namespace cachalot::post
