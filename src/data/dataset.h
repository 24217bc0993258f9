// One named source of the mix: its shards as one list of documents.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "data/token_source.h"

namespace cachalot::data {

// Where a document of a dataset lies.
struct DocumentPlace {
  int64_t shard = 0;
  int64_t document = 0;  // within the shard
};

class Dataset {
 public:
  // A dataset without a token is invalid_argument, as nothing can be drawn from it; so are shards
  // of different tokenizers.
  static Result<Dataset> create(std::string name,
                                std::vector<std::shared_ptr<const TokenSource>> shards);

  const std::string& name() const { return name_; }
  int64_t num_documents() const { return first_document_.back(); }
  int64_t num_tokens() const { return num_tokens_; }
  int64_t vocab_size() const { return vocab_size_; }  // the largest of the shards'
  uint64_t fingerprint() const { return fingerprint_; }
  uint64_t tokenizer_fingerprint() const { return tokenizer_fingerprint_; }  // 0: not known

  DocumentPlace place(int64_t document) const;
  const TokenSource& shard(int64_t shard) const { return *shards_[static_cast<size_t>(shard)]; }

 private:
  Dataset() = default;
  std::string name_;
  std::vector<std::shared_ptr<const TokenSource>> shards_;
  std::vector<int64_t> first_document_;  // of each shard, and their end
  int64_t num_tokens_ = 0;
  int64_t vocab_size_ = 0;
  uint64_t fingerprint_ = 0;
  uint64_t tokenizer_fingerprint_ = 0;
};

}  // namespace cachalot::data
