// `train --data`: from a person's texts to what a configuration needs.
// Files    RUN/data: tokenizer.json, where the configuration names none; texts.json with its
//          shards, and texts-heldout.json with those of what is held out. A run that goes on
//          (`resume`) takes them as they are, and RUN/run.toml beneath the configuration. Where
//          `dry_run`, they are made in a temporary folder that is gone at the end, and the
//          configuration names where they would be.
// Order    the configuration is checked, all of it, before a text is read.
// Sets     what the configuration does not: model.preset (nano), run_dir (runs/NAME), tokenizer,
//          data, validation, model.vocab_size, schedule.batch.total_tokens.
// Errors   of the files, the tokenizer's training and the corpora; a configuration that names data
//          of its own; a directory that holds a run already, without `resume` or `dry_run`;
//          texts of fewer tokens than 4 of the first stage's sequences. Folders that were made for
//          refused texts are gone again.
#pragma once

#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "train/train_config.h"

namespace cachalot::apps {

struct TextsRequest {
  std::vector<std::string> texts;
  bool resume = false;
  bool dry_run = false;
};
Status add_texts(train::ConfigTree& tree, const TextsRequest& request, ThreadPool& threads);

// RUN/generation_config.json, which the run's checkpoints carry: how a model that has seen plain
// text alone is talked with. A run that goes on (`resume`) keeps the one that it has.
Status write_text_defaults(const train::TrainConfig& config, bool resume);

}  // namespace cachalot::apps
