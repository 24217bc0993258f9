#include "data/shard_series.h"

#include <fmt/format.h>

#include "data/corpus_list.h"

namespace cachalot::data {

std::string ShardSeries::path() const {
  return fmt::format("{}-{:05}.tokens", prefix_, shards_.size());
}

Status ShardSeries::add(std::span<const int32_t> ids, std::span<const float> weights) {
  const auto count = static_cast<int64_t>(ids.size());
  if (writer_ && writer_->num_documents() > 0 &&
      writer_->num_tokens() + count > options_.max_tokens) {
    CACHALOT_RETURN_IF_ERROR(close());
  }
  if (!writer_) {
    CACHALOT_ASSIGN_OR_RETURN(
        TokenShardWriter writer,
        TokenShardWriter::create(path(), options_.vocab_size, options_.tokenizer_fingerprint,
                                 options_.with_weights));
    writer_.emplace(std::move(writer));
  }
  return writer_->add_document(ids, weights);
}

Status ShardSeries::close() {
  if (!writer_) return {};
  CorpusShard shard = {.file = file_name(path()),
                       .num_documents = writer_->num_documents(),
                       .num_tokens = writer_->num_tokens()};
  CACHALOT_ASSIGN_OR_RETURN(shard.fingerprint, writer_->finish());
  writer_.reset();
  shards_.push_back(std::move(shard));
  return {};
}

Result<std::vector<CorpusShard>> ShardSeries::finish() {
  CACHALOT_RETURN_IF_ERROR(close());
  return std::move(shards_);
}

}  // namespace cachalot::data
