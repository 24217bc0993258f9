// The shards of one corpus, written one after another: PREFIX-00000.tokens, PREFIX-00001.tokens ...
// Each appears whole (token_shard.h).
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/token_shard.h"
#include "data/tokenize_corpus.h"

namespace cachalot::data {

struct ShardOptions {
  int64_t vocab_size = 0;
  uint64_t tokenizer_fingerprint = 0;
  // A shard is closed before the document that would take it past this; a longer document has one
  // of its own.
  int64_t max_tokens = 0;
  bool with_weights = false;
};

class ShardSeries {
 public:
  ShardSeries(std::string prefix, ShardOptions options)
      : prefix_(std::move(prefix)), options_(options) {}

  // As TokenShardWriter::add_document.
  Status add(std::span<const int32_t> ids, std::span<const float> weights = {});
  // All of them; the series is spent.
  Result<std::vector<CorpusShard>> finish();

 private:
  Status close();
  std::string path() const;

  std::string prefix_;
  ShardOptions options_;
  std::optional<TokenShardWriter> writer_;
  std::vector<CorpusShard> shards_;
};

}  // namespace cachalot::data
