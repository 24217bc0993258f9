#include "data/dataset.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace cachalot::data {

Result<Dataset> Dataset::create(std::string name,
                                std::vector<std::shared_ptr<const TokenSource>> shards) {
  Dataset dataset;
  std::vector<uint64_t> fingerprints;
  dataset.first_document_.push_back(0);
  for (const auto& shard : shards) {
    dataset.first_document_.push_back(dataset.first_document_.back() + shard->num_documents());
    dataset.num_tokens_ += shard->num_tokens();
    dataset.vocab_size_ = std::max(dataset.vocab_size_, shard->vocab_size());
    fingerprints.push_back(shard->fingerprint());
    const uint64_t tokenizer = shard->tokenizer_fingerprint();
    if (tokenizer == 0) continue;
    if (dataset.tokenizer_fingerprint_ != 0 && dataset.tokenizer_fingerprint_ != tokenizer) {
      return invalid_argument(fmt::format(
          "dataset {}: {}: expected ids of the tokenizer {:016x} as in the shards before, found "
          "those of {:016x}",
          name, shard->name(), dataset.tokenizer_fingerprint_, tokenizer));
    }
    dataset.tokenizer_fingerprint_ = tokenizer;
  }
  if (dataset.num_tokens_ == 0) {
    return invalid_argument(fmt::format(
        "dataset {}: expected at least one token, found none in {} shards", name, shards.size()));
  }
  dataset.name_ = std::move(name);
  dataset.shards_ = std::move(shards);
  dataset.fingerprint_ = XXH3_64bits(fingerprints.data(), fingerprints.size() * sizeof(uint64_t));
  return dataset;
}

DocumentPlace Dataset::place(int64_t document) const {
  CACHALOT_CHECK(document >= 0 && document < num_documents());
  const auto next = std::upper_bound(first_document_.begin(), first_document_.end(), document);
  const int64_t shard = next - first_document_.begin() - 1;
  return {.shard = shard, .document = document - *(next - 1)};
}

}  // namespace cachalot::data
