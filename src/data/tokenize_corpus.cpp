#include "data/tokenize_corpus.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "data/corpus_list.h"
#include "data/glued_tokens.h"
#include "data/shard_series.h"
#include "data/streams.h"
#include "data/text_documents.h"
#include "data/token_shard.h"

namespace cachalot::data {
namespace {
constexpr int64_t kBatchBytes = int64_t{8} << 20;
constexpr size_t kBatchDocuments = 4096;

Status check_options(const TokenizeOptions& options, int32_t vocab_size) {
  const auto fail = [](std::string_view field, std::string_view expected, auto found) {
    return invalid_argument(
        fmt::format("tokenize: {}: expected {}, found {}", field, expected, found));
  };
  for (const double rate : {options.fim_rate, options.split_glued_rate}) {
    if (!(rate >= 0 && rate <= 1)) return fail("fim_rate, split_glued_rate", "0 to 1", rate);
  }
  if (options.fim_rate > 0 && !options.fim_tokens) {
    return fail("fim_tokens", "the tokenizer's three ids where fim_rate > 0", "none");
  }
  const FimTokens fim = options.fim_tokens.value_or(FimTokens{});
  for (const int32_t id :
       {options.bos_id.value_or(0), options.eos_id.value_or(0), fim.begin, fim.hole, fim.end}) {
    if (id < 0 || id >= vocab_size) {
      return fail("control token", fmt::format("an id in [0, {})", vocab_size), id);
    }
  }
  if (options.max_shard_tokens < 1) {
    return fail("max_shard_tokens", "1 or more", options.max_shard_tokens);
  }
  const TextOptions& text = options.text;
  if (text.documents.max_document_bytes < 1)
    return fail("max_document_bytes", "1 or more", text.documents.max_document_bytes);
  if (text.max_piece_bytes != 0 && text.max_piece_bytes < 4)
    return fail("max_piece_bytes", "0 or at least 4", text.max_piece_bytes);
  if (!(text.hold_out >= 0 && text.hold_out < 1))
    return fail("hold_out", "0 to less than 1", text.hold_out);
  return {};
}

// The tokens of one document, by its number in the corpus.
class Encoder {
 public:
  Encoder(const text::Tokenizer& tokenizer, const TokenizeOptions& options)
      : tokenizer_(tokenizer), options_(options) {
    if (options.split_glued_rate > 0) glued_.emplace(tokenizer);
  }

  std::vector<int32_t> encode(std::string_view text, uint64_t document) const {
    std::vector<int32_t> body = encode_body(text, document);
    if (glued_) {
      body = glued_->split(body, options_.split_glued_rate,
                           data_stream(options_.seed, DataUse::glued_tokens, 0, 0, document));
    }
    std::vector<int32_t> ids;
    ids.reserve(body.size() + 2);
    if (options_.bos_id) ids.push_back(*options_.bos_id);
    ids.insert(ids.end(), body.begin(), body.end());
    if (options_.eos_id) ids.push_back(*options_.eos_id);
    return ids;
  }

 private:
  std::vector<int32_t> encode_body(std::string_view text, uint64_t document) const {
    if (options_.fim_rate > 0) {
      auto cut = draw_fim_cut(data_stream(options_.seed, DataUse::fim, 0, 0, document),
                              static_cast<int64_t>(text.size()), options_.fim_rate);
      if (cut) {
        cut->prefix_end = character_boundary(text, cut->prefix_end);
        cut->suffix_begin = character_boundary(text, cut->suffix_begin);
        return encode_fim(tokenizer_, text, *cut, *options_.fim_tokens);
      }
    }
    const text::Segment segment = {.kind = text::Segment::Kind::text, .text = text};
    return tokenizer_.encode_segments(std::span(&segment, 1));
  }

  const text::Tokenizer& tokenizer_;
  const TokenizeOptions& options_;
  std::optional<GluedTokens> glued_;
};

// A corpus that grows: documents are encoded a batch at a time.
class Output {
 public:
  Output(const text::Tokenizer& tokenizer, const TokenizeOptions& options,
         const std::string& prefix, ThreadPool& threads)
      : encoder_(tokenizer, options),
        fingerprint_(tokenizer_fingerprint(tokenizer)),
        prefix_(prefix),
        series_(prefix, {.vocab_size = tokenizer.vocab_size(),
                         .tokenizer_fingerprint = fingerprint_,
                         .max_tokens = options.max_shard_tokens}),
        threads_(threads) {}

  Status add(std::string_view text) {
    batch_bytes_ += static_cast<int64_t>(text.size());
    batch_.emplace_back(text);
    return batch_bytes_ >= kBatchBytes || batch_.size() >= kBatchDocuments ? flush() : Status();
  }

  // The list comes last: without it a corpus is not whole.
  Result<CorpusSummary> finish() {
    CACHALOT_RETURN_IF_ERROR(flush());
    CACHALOT_ASSIGN_OR_RETURN(summary_.shards, series_.finish());
    CACHALOT_RETURN_IF_ERROR(
        write_file_atomically(prefix_ + ".json", corpus_list_json(summary_, fingerprint_)));
    return std::move(summary_);
  }

 private:
  Status flush() {
    std::vector<std::vector<int32_t>> ids(batch_.size());
    threads_.run(static_cast<int64_t>(batch_.size()), [&](int64_t i, int /*worker*/) {
      const auto at = static_cast<size_t>(i);
      ids[at] = encoder_.encode(batch_[at], static_cast<uint64_t>(summary_.num_documents + i));
    });
    for (const auto& document : ids) {
      CACHALOT_RETURN_IF_ERROR(series_.add(document));
      summary_.num_tokens += static_cast<int64_t>(document.size());
    }
    summary_.num_documents += static_cast<int64_t>(batch_.size());
    summary_.text_bytes += std::exchange(batch_bytes_, 0);
    batch_.clear();
    return {};
  }

  Encoder encoder_;
  uint64_t fingerprint_;
  std::string prefix_;
  ShardSeries series_;
  ThreadPool& threads_;
  std::vector<std::string> batch_;
  int64_t batch_bytes_ = 0;
  CorpusSummary summary_;
};
}  // namespace

uint64_t tokenizer_fingerprint(const text::Tokenizer& tokenizer) {
  std::string all;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const auto bytes = tokenizer.token_bytes(id);
    if (bytes) all += fmt::format("{} {} {}\n", id, bytes->size(), *bytes);
  }
  return XXH3_64bits(all.data(), all.size());
}

Result<TokenizedCorpus> tokenize_corpus(const text::Tokenizer& tokenizer,
                                        std::span<const std::string> files,
                                        const std::string& prefix, const TokenizeOptions& options,
                                        ThreadPool& threads) {
  CACHALOT_RETURN_IF_ERROR(check_options(options, tokenizer.vocab_size()));
  CACHALOT_RETURN_IF_ERROR(
      create_directories(std::filesystem::absolute(prefix).parent_path().string()));
  TokenizeOptions plain = options;
  plain.fim_rate = 0;
  plain.split_glued_rate = 0;
  Output training(tokenizer, options, prefix, threads);
  Output held_out(tokenizer, plain, prefix + "-heldout", threads);
  CACHALOT_ASSIGN_OR_RETURN(
      TextDocuments documents,
      TextDocuments::open(std::vector<std::string>(files.begin(), files.end()), options.text));
  for (bool is_first = true;; is_first = false) {
    CACHALOT_ASSIGN_OR_RETURN(const std::optional<TextPiece> piece, documents.next());
    if (!piece && is_first) return no_documents(files, documents.skipped());
    if (!piece) break;
    CACHALOT_RETURN_IF_ERROR((piece->held_out ? held_out : training).add(piece->text));
  }
  TokenizedCorpus out;
  out.num_repeated = documents.num_repeated();
  out.skipped = documents.skipped();
  if (options.text.hold_out > 0) {
    CACHALOT_ASSIGN_OR_RETURN(out.held_out, held_out.finish());
  }
  CACHALOT_ASSIGN_OR_RETURN(out.training, training.finish());
  return out;
}

Result<Dataset> open_corpus(const std::string& list_path, bool verify_tokens) {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<CorpusShard> listed, read_corpus_list(list_path));
  std::vector<std::shared_ptr<const TokenSource>> shards;
  for (const CorpusShard& entry : listed) {
    const std::string path = beside(list_path, entry.file);
    CACHALOT_ASSIGN_OR_RETURN(auto shard, TokenShard::open(path, {.verify_tokens = verify_tokens}));
    if (shard->fingerprint() != entry.fingerprint) {
      return data_loss(
          fmt::format("{}: expected the shard listed, fingerprint {:016x}, found {:016x}", path,
                      entry.fingerprint, shard->fingerprint()));
    }
    shards.push_back(std::move(shard));
  }
  return Dataset::create(list_path, std::move(shards));
}

}  // namespace cachalot::data
