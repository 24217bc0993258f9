#include "data/open_dataset.h"

#include <fmt/format.h>

#include "data/megatron_source.h"
#include "data/nanogpt_source.h"
#include "data/token_shard.h"
#include "data/tokenize_corpus.h"

namespace cachalot::data {
namespace {

Result<Dataset> one_source(const std::string& name, std::shared_ptr<const TokenSource> source) {
  return Dataset::create(name, {std::move(source)});
}

}  // namespace

Result<Dataset> open_dataset(const std::string& name, const std::string& path,
                             std::string_view format, int64_t vocab_size) {
  if (format == "auto") {
    const bool own = path.ends_with(".json") || path.ends_with(".tokens");
    format = own ? "cachalot" : path.ends_with(".bin") ? "nanogpt" : "megatron";
  }
  if (format == "cachalot") {
    if (path.ends_with(".json")) return open_corpus(path);
    CACHALOT_ASSIGN_OR_RETURN(std::shared_ptr<const TokenSource> shard, TokenShard::open(path));
    return one_source(name, std::move(shard));
  }
  if (format == "nanogpt") {
    CACHALOT_ASSIGN_OR_RETURN(std::shared_ptr<const TokenSource> source,
                              NanogptSource::open(path, {.vocab_size = vocab_size}));
    return one_source(name, std::move(source));
  }
  if (format == "megatron") {
    CACHALOT_ASSIGN_OR_RETURN(std::shared_ptr<const TokenSource> source,
                              MegatronSource::open(path, vocab_size));
    return one_source(name, std::move(source));
  }
  return invalid_argument(fmt::format(
      "{}: format: expected auto, cachalot, nanogpt or megatron, found \"{}\"", name, format));
}

}  // namespace cachalot::data
