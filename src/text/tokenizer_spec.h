// What a tokenizer.json says, once read and checked: the data from which a Tokenizer is built.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cachalot::text {

// A token that is matched in raw text before anything else (reference/chat 1.3).
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;  // as the file marks it; nothing here depends on it (reference/chat 1.4)
};

struct VocabularyEntry {
  int32_t id = 0;
  std::string bytes;
  // Spelled with a character outside the byte alphabet, so that it stands for itself. Merging never
  // produces it: such entries are control tokens that the file lists again under added_tokens.
  bool literal = false;
};

struct Merge {
  int32_t left = 0;
  int32_t right = 0;
  int32_t product = 0;
};

struct TokenizerSpec {
  std::vector<VocabularyEntry> vocabulary;  // base tokens as the bytes they stand for, any order
  std::vector<Merge> merges;                // by rank
  std::vector<AddedToken> added_tokens;     // file order
  bool ignore_merges = false;  // a piece that is a token stays whole whatever the merges say
};

// More is refused: ids size tables, and ids and ranks share a word there.
inline constexpr int32_t kMaxTokenId = (1 << 21) - 2;
inline constexpr size_t kMaxMerges = (size_t{1} << 22) - 2;

// Reads a Hugging Face tokenizer.json with model BPE, the byte alphabet of GPT-2 and the
// DeepSeek-V3 splits; merges as "left right" strings or as pairs. `origin` names the file in
// errors.
// Errors   invalid_argument: not JSON, or a field missing or of the wrong kind, naming the field,
//          what was expected and found; unsupported: a well-formed feature that DeepSeek files do
//          not use (other splits, normalizers, models, options). truncation and padding are
//          passed over, and said once.
Result<TokenizerSpec> parse_tokenizer_json(std::string_view text, std::string_view origin);

}  // namespace cachalot::text
