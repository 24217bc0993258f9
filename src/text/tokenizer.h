// The tokenizer of DeepSeek-V3/V4: byte-level BPE read from a Hugging Face tokenizer.json.
// Source   reference/chat 1. Agrees with PyPI tokenizers 0.23.3 id for id (tests/tokenizer).
// Bytes    Text is UTF-8 by intent, but any bytes encode, and decode_bytes(encode(x)) == x always.
// Ids      int32, 0 <= id < vocab_size(). No token is added at either end: the chat encoder writes
//          what a prompt needs.
// Threads  Immutable once loaded (add_tokens belongs to loading); concurrent calls are safe.
// Memory   About 25 MB for the 128,000 tokens of V4. encode needs little beside its result (bpe.h).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/bpe.h"
#include "text/tokenizer_added_tokens.h"
#include "text/tokenizer_spec.h"

namespace cachalot::text {

// A stretch of a prompt (reference/chat 1.6).
struct Segment {
  enum class Kind {
    control,  // written by the template: added tokens in it are tokens
    text,     // from outside: an added token spelled in it is plain text
  };
  Kind kind = Kind::text;
  std::string_view text;
};

class Tokenizer {
 public:
  // Refuses files above 256 MiB. Errors name the file, the field, what was expected and what was
  // found.
  static Result<Tokenizer> load(const std::string& path);
  // The same from the file's text; `origin` names it in errors.
  static Result<Tokenizer> from_json(std::string_view text, std::string_view origin);

  // Adds to the added-token table, as for V4 on the V3 file (tokenizer_v4.h). A token that is there
  // already, with the same id, is left as it is; on error (an id or a content taken by another)
  // nothing changes.
  Status add_tokens(std::span<const AddedToken> tokens);

  // The whole text, added tokens matched everywhere, leftmost-longest, the rest cut and merged
  // between them. What Hugging Face's encode(text, add_special_tokens=False) gives: control strings
  // inside user text become control tokens.
  std::vector<int32_t> encode(std::string_view text) const;

  // The same with added tokens matched only inside control segments, and never across two segments.
  // Plain text between two control tokens is joined before it is cut, across segments of both
  // kinds. Equal to encode() of the joined text where text segments spell no added token.
  std::vector<int32_t> encode_segments(std::span<const Segment> segments) const;

  // The text of ids, every byte sequence that is not UTF-8 replaced by U+FFFD (see Utf8Stream). An
  // id that no token has is invalid_argument.
  Result<std::string> decode(std::span<const int32_t> ids) const;
  Result<std::string> decode_bytes(std::span<const int32_t> ids) const;

  // The bytes a token stands for, valid as long as the tokenizer is not moved or destroyed; added
  // tokens give their content. invalid_argument if no token has this id.
  Result<std::string_view> token_bytes(int32_t id) const;

  // The added token with this content, else the one base token that these bytes encode to, if it is
  // one.
  std::optional<int32_t> token_id(std::string_view text) const;

  // Highest id + 1 (129,280 for V4).
  int32_t vocab_size() const { return vocab_size_; }

  // Sorted by id.
  std::span<const AddedToken> added_tokens() const { return added_.tokens(); }

 private:
  Tokenizer(Bpe bpe)
      : bpe_(std::move(bpe)), vocab_size_(static_cast<int32_t>(bpe_.tokens().num_ids())) {}
  std::string_view base_token(int32_t id) const;
  void encode_plain(std::string_view text, std::vector<int32_t>& ids) const;

  Bpe bpe_;
  AddedTokens added_;
  int32_t vocab_size_;
};

}  // namespace cachalot::text
