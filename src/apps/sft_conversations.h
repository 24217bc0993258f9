// `sft`: from conversations and a model to what a configuration of a training run needs.
// Files    RUN/data: conversations.json with its shards, conversations-heldout.json with those of
//          what is held out, conversations-bad-rows.txt (data/conversation_corpus.h). Where
//          `dry_run`, they are made in a temporary folder that is gone at the end.
// Order    the configuration is checked before a row is read. The run goes on as any other: train
//          RUN/run.toml --resume.
//          RUN/generation_config.json, which the run's checkpoints carry: the model's, with the
//          effort that most samples have.
// Sets     what the configuration does not: model.init_from, tokenizer, run_dir (runs/NAME), data,
//          validation, precision fp8 with qat, sequence length, batch, budget, learning rate,
//          evaluations and checkpoints once in an epoch.
// Errors   of the files and rows; a directory that holds a run already, without `dry_run`; a
//          configuration that names a model or data of its own.
#pragma once

#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "data/conversation_corpus.h"
#include "train/config_tree.h"

namespace cachalot::apps {

struct SftRequest {
  std::string model;
  std::vector<std::string> files;
  std::string family;  // empty: the tokenizer's
  double epochs = 4;
  int64_t max_tokens = 0;  // of a sample; 0: 4,096, or the model's context where that is less
  data::ConversationCorpusOptions corpus;
  bool dry_run = false;
};

Status add_conversations(train::ConfigTree& tree, SftRequest request, ThreadPool& threads);

}  // namespace cachalot::apps
