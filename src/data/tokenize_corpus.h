// From files of text to shards of tokens.
// Exact    The shards' bytes are a function of the files, their order, the tokenizer and the
//          options; thread count and how documents are batched do not enter.
// Memory   A batch of documents (8 MB of text, or one longer document) and its tokens; 8 bytes a
//          document of the open shard.
// Files    PREFIX-00000.tokens, PREFIX-00001.tokens, ... (docs/formats/token_shard.md), and last
//          PREFIX.json, which lists them; PREFIX-heldout likewise, where some is held out. Each
//          appears whole; without the list a run did not finish. Missing folders are made.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "data/dataset.h"
#include "data/fim.h"
#include "data/text_documents.h"
#include "text/tokenizer.h"

namespace cachalot::data {

struct TokenizeOptions {
  TextOptions text = {};  // its pieces are the corpus's documents
  // Written before and after each document's tokens.
  std::optional<int32_t> bos_id = std::nullopt;
  std::optional<int32_t> eos_id = std::nullopt;
  // A shard is closed before the document that would take it past this; a longer document has one
  // of its own.
  int64_t max_shard_tokens = int64_t{1} << 28;
  uint64_t seed = 0;
  // Fill-in-the-middle cut between characters, once for all epochs; the loader's own rate should
  // then be 0. What is held out has neither this nor split tokens.
  double fim_rate = 0;
  std::optional<FimTokens> fim_tokens = std::nullopt;
  // Fraction of glued punctuation and line-break tokens to split (glued_tokens.h).
  double split_glued_rate = 0;
};

struct CorpusShard {
  std::string file;  // name beside the list
  int64_t num_documents = 0;
  int64_t num_tokens = 0;
  uint64_t fingerprint = 0;
};

struct CorpusSummary {
  int64_t num_documents = 0;
  int64_t num_tokens = 0;
  int64_t text_bytes = 0;
  std::vector<CorpusShard> shards;
};

// XXH3-64 of every id and its bytes: two tokenizers with the same fingerprint decode alike.
uint64_t tokenizer_fingerprint(const text::Tokenizer& tokenizer);

struct TokenizedCorpus {
  CorpusSummary training;
  CorpusSummary held_out;    // empty where nothing is held out
  int64_t num_repeated = 0;  // documents left out (text_documents.h)
  SkippedLines skipped;      // skip_bad_lines
};

// Reads `files` in the order given. Control tokens spelled in documents stay plain text. An error
// leaves the shards that were complete, and no list. Files without a document among them are one.
Result<TokenizedCorpus> tokenize_corpus(const text::Tokenizer& tokenizer,
                                        std::span<const std::string> files,
                                        const std::string& prefix, const TokenizeOptions& options,
                                        ThreadPool& threads);

// The shards that a list names, as one dataset of the list's name. data_loss if a shard is not the
// one listed.
Result<Dataset> open_corpus(const std::string& list_path, bool verify_tokens = true);

}  // namespace cachalot::data
