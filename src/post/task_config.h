// What every run on tasks is (`cachalot rl`, `cachalot distill`): the keys of a training run that
// hold there too (model, tokenizer, optimizer, precision, checkpoint, ...; train/train_config.h),
// and in the run's own table steps, tasks, and how answers are sampled.
// Source  reference/post-training 2.2 (defaults: R1's first stage), 3, 7.
// Defaults that differ from pre-training's: AdamW without decay, a constant learning rate of 3e-6
//         without warm-up, neither balance nor indexer loss, routing biases that stay.
// Errors  as train_config.h: origin, key, expected, found; of all keys of the table at once.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "post/config_table.h"
#include "post/tasks.h"
#include "train/train_config.h"

namespace cachalot::post {

struct TaskRunConfig {
  train::TrainConfig train;
  std::string table;     // "rl": what the keys below stand in
  std::string resolved;  // TOML of all that was given, with the defaults above
  std::string hash;      // of what decides a run's bits: `resolved` without run_dir and recompute

  int64_t steps = 0;
  int64_t prompts_per_step = 32;
  int64_t group_size = 16;
  int64_t mini_batches = 1;         // of a step, an optimizer step each
  int64_t weights_every_steps = 1;  // the sampler gets new weights: staleness is up to one less

  double temperature = 1;
  double top_p = 1;
  double min_p = 0;
  int64_t top_k = 0;
  int64_t num_drafts = 0;
  int64_t max_sequences = 16;  // sampled at once
  bool sync_log = false;       // against loss of power, after each step's rollouts

  std::string prompt_format = "chat";  // or raw
  std::string chat_family;             // empty: by the tokenizer
  std::vector<std::string> end_texts;  // beside the end of a sentence: each one token
  int64_t max_turns = 8;
  double penalty_tokens = 1000;  // LengthPenalty::per_tokens
  double penalty_most = 1;
  // Of tasks with rubrics: how often each answer is judged, and how judges are asked.
  int64_t judgements = 1;
  std::string judge_effort = "none";
  int64_t judge_max_new_tokens = 256;
  int64_t judge_prompt_tokens = 2048;  // at most: what is longer is not judged
  bool constrain_verdicts = true;      // of annotated ones too
  std::vector<TaskEntry> tasks;
};

// What an entry's values in the log begin with: "task/0.sums".
std::string task_metric(std::span<const TaskEntry> tasks, size_t entry);

// Into a configuration that holds the defaults. own_keys reads what else the table has.
Status read_task_run_config(std::span<const std::string> files,
                            std::span<const std::string> assignments, const std::string& table,
                            const std::function<void(ConfigTable&)>& own_keys,
                            TaskRunConfig* config);

}  // namespace cachalot::post
