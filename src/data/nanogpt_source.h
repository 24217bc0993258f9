// Token files of nanoGPT and llm.c: a stream of ids without document boundaries.
// Layout   Bare: uint16 ids to the end of the file. With a header: 256 int32, of which magic,
//          version and number of tokens are used, then ids: magic 20240520, version 1: uint16;
//          magic 20240801, version 7: uint32.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/file.h"
#include "data/token_array.h"
#include "data/token_source.h"

namespace cachalot::data {

class NanogptSource final : public TokenSource {
 public:
  struct Options {
    int64_t vocab_size = 65536;
    // Cuts the stream into documents, of which it stays a part: <|endoftext|>, 50256 in GPT-2's
    // vocabulary. nanoGPT writes it last in a document, llm.c first. Without it the file is one
    // document. Finding them reads the whole file.
    std::optional<int32_t> separator = std::nullopt;
    bool separator_is_first = false;
  };
  static Result<std::shared_ptr<const NanogptSource>> open(const std::string& path,
                                                           Options options);
  // The same over bytes that outlive the source. Any bytes are safe to give.
  static Result<std::shared_ptr<const NanogptSource>> from_bytes(std::span<const std::byte> bytes,
                                                                 std::string name, Options options);

  const std::string& name() const override { return name_; }
  int64_t num_documents() const override { return static_cast<int64_t>(ends_.size()); }
  int64_t num_tokens() const override { return ends_.empty() ? 0 : ends_.back(); }
  int64_t vocab_size() const override { return vocab_size_; }
  int64_t document_length(int64_t document) const override;
  Status read(int64_t document, int64_t begin, std::span<int32_t> out) const override;
  // Of the document ends and of all content (content_hash.h).
  uint64_t fingerprint() const override { return fingerprint_; }

 private:
  NanogptSource() = default;
  Status parse(std::span<const std::byte> bytes, const Options& options);
  void set_fingerprint(uint64_t content);
  void find_documents(const Options& options, int64_t num_tokens);
  int64_t document_begin(int64_t document) const;

  std::optional<MappedFile> file_;
  std::string name_;
  std::span<const std::byte> tokens_;
  TokenType type_ = TokenType::u16;
  int64_t vocab_size_ = 0;
  std::vector<int64_t> ends_;
  uint64_t fingerprint_ = 0;
};

}  // namespace cachalot::data
