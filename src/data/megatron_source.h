// Indexed datasets of Megatron: PREFIX.idx (the index) and PREFIX.bin (the ids, one sequence after
// another).
// Layout   of the index, little-endian: "MMIDIDX\0\0"; u64 version 1; u8 type of the ids (1 uint8,
//          2 int8, 3 int16, 4 int32, 5 int64, 8 uint16; 6 and 7, floats, are unsupported); u64 S
//          sequences; u64 D; i32[S] lengths in ids; i64[S] byte offsets in PREFIX.bin; i64[D]
//          indices of sequences: document d is sequences [index[d], index[d+1]), so that there are
//          D - 1 documents; optionally i8[S] modes, which are ignored.
// Documents The sequences of a document (sentences, in some corpora) are read as one.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/file.h"
#include "data/token_array.h"
#include "data/token_source.h"

namespace cachalot::data {

class MegatronSource final : public TokenSource {
 public:
  // Ids must be below vocab_size; they are checked as they are read.
  static Result<std::shared_ptr<const MegatronSource>> open(const std::string& prefix,
                                                            int64_t vocab_size);
  // The same over bytes that outlive the source. Any bytes are safe to give.
  static Result<std::shared_ptr<const MegatronSource>> from_bytes(std::span<const std::byte> index,
                                                                  std::span<const std::byte> bin,
                                                                  std::string name,
                                                                  int64_t vocab_size);

  const std::string& name() const override { return name_; }
  int64_t num_documents() const override { return static_cast<int64_t>(documents_.size()) - 1; }
  int64_t num_tokens() const override { return sequence_begin_.back(); }
  int64_t vocab_size() const override { return vocab_size_; }
  int64_t document_length(int64_t document) const override;
  Status read(int64_t document, int64_t begin, std::span<int32_t> out) const override;
  // Of the index and of all ids (content_hash.h).
  uint64_t fingerprint() const override { return fingerprint_; }

 private:
  MegatronSource() = default;
  Status parse(std::span<const std::byte> index, std::span<const std::byte> bin);
  void set_fingerprint(std::span<const std::byte> index, uint64_t content);

  std::optional<MappedFile> index_file_;
  std::optional<MappedFile> bin_file_;
  std::string name_;
  std::span<const std::byte> bin_;
  TokenType type_ = TokenType::u16;
  int64_t vocab_size_ = 0;
  std::vector<int64_t> sequence_begin_;   // in ids, counted over all sequences; and their end
  std::vector<int64_t> sequence_offset_;  // in bytes, in bin_
  std::vector<int64_t> documents_;        // first sequence of each, and their end
  uint64_t fingerprint_ = 0;
};

}  // namespace cachalot::data
