// Our own file of tokenised documents. Byte layout: docs/formats/token_shard.md.
#pragma once

#include <xxhash.h>

#include <memory>
#include <optional>
#include <vector>

#include "base/file.h"
#include "data/token_array.h"
#include "data/token_source.h"

namespace cachalot::data {

// Writes one shard, document after document; memory grows by 8 bytes a document, and by 4 a token
// where tokens have weights. The file appears
// under its name, whole and synced, when finish() returns; a writer destroyed before that leaves
// nothing. Move-only, one thread.
class TokenShardWriter {
 public:
  // vocab_size in [1, 2^31) decides the width: 16 bits up to 65,536, else 32. tokenizer_fingerprint
  // is the caller's word for the tokenizer (0 if it has none); readers can compare it.
  // With weights each token has a loss weight of its own (token_source.h).
  static Result<TokenShardWriter> create(const std::string& path, int64_t vocab_size,
                                         uint64_t tokenizer_fingerprint, bool with_weights = false);
  TokenShardWriter(TokenShardWriter&&) noexcept = default;

  int64_t num_documents() const { return static_cast<int64_t>(ends_.size()); }
  int64_t num_tokens() const { return ends_.empty() ? 0 : static_cast<int64_t>(ends_.back()); }

  // An id outside [0, vocab_size) is a caller bug; so are weights that are not finite and 0 or
  // more, or not as many as ids, or any where the shard has none.
  Status add_document(std::span<const int32_t> ids, std::span<const float> weights = {});
  // After it the writer is spent. Returns the shard's fingerprint, as TokenShard::fingerprint()
  // will.
  Result<uint64_t> finish();

 private:
  struct HashDeleter {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  TokenShardWriter(AtomicFile file, int64_t vocab_size, bool with_weights);
  Status write_tokens(std::span<const std::byte> bytes);

  AtomicFile file_;
  int64_t vocab_size_;
  bool with_weights_;
  std::unique_ptr<XXH3_state_t, HashDeleter> tokens_hash_;
  std::vector<uint64_t> ends_;
  std::vector<float> weights_;
  std::vector<std::byte> buffer_;
};

// A shard, mapped. Views into the mapping never leave it.
class TokenShard final : public TokenSource {
 public:
  struct Options {
    // Reads every token once to compare the checksum; without it, bits that rotted show only where
    // they make an id invalid. Structure and document boundaries are checked always.
    bool verify_tokens = true;
  };
  static Result<std::shared_ptr<const TokenShard>> open(const std::string& path, Options options);
  static Result<std::shared_ptr<const TokenShard>> open(const std::string& path) {
    return open(path, Options{});
  }
  // The same over bytes that outlive the shard; `name` stands for the path. Any bytes are safe to
  // give.
  static Result<std::shared_ptr<const TokenShard>> from_bytes(std::span<const std::byte> bytes,
                                                              std::string name, Options options);

  const std::string& name() const override { return name_; }
  int64_t num_documents() const override { return num_documents_; }
  int64_t num_tokens() const override { return num_tokens_; }
  int64_t vocab_size() const override { return vocab_size_; }
  int64_t document_length(int64_t document) const override;
  Status read(int64_t document, int64_t begin, std::span<int32_t> out) const override;
  bool has_weights() const override { return has_weights_; }
  Status read_weights(int64_t document, int64_t begin, std::span<float> out) const override;
  uint64_t fingerprint() const override { return fingerprint_; }
  uint64_t tokenizer_fingerprint() const override { return tokenizer_fingerprint_; }

 private:
  TokenShard() = default;
  Status parse(std::span<const std::byte> bytes, Options options);
  int64_t document_begin(int64_t document) const;

  std::optional<MappedFile> file_;
  std::string name_;
  std::span<const std::byte> tokens_;
  std::span<const std::byte> ends_;     // u64 each, ascending
  std::span<const std::byte> weights_;  // f32 each
  TokenType type_ = TokenType::u16;
  bool has_weights_ = false;
  int64_t vocab_size_ = 0;
  int64_t num_documents_ = 0;
  int64_t num_tokens_ = 0;
  uint64_t fingerprint_ = 0;
  uint64_t tokenizer_fingerprint_ = 0;
};

}  // namespace cachalot::data
