// Byte-level BPE over one piece of text (reference/chat 1.2): start from single bytes, merge the
// adjacent pair of lowest rank, leftmost first on ties, until no pair has a rank.
// Immutable once built; concurrent calls are safe.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/bpe_linear.h"
#include "text/bpe_pairs.h"
#include "text/bpe_tokens.h"
#include "text/tokenizer_spec.h"

namespace cachalot::text {

class Bpe {
 public:
  // Errors   invalid_argument: an id or a pair given twice, a merge of an id that is not there, a
  //          byte without a token.
  static Result<Bpe> build(const TokenizerSpec& spec, std::string_view origin);

  // Appends the ids of `piece`, which is not empty. Any bytes. n bytes cost O(n) time and n bits of
  // memory where the merge list is proper (bpe_linear.h), as those of V3 and V4 are, else O(n log
  // n) and up to 24 n bytes.
  void encode_piece(std::string_view piece, std::vector<int32_t>& ids) const;

  // The definition: the same ids by merging, without short cuts.
  void merge(std::string_view piece, std::vector<int32_t>& ids) const;

  // Whether encode_piece takes the linear way.
  bool is_linear() const { return linear_.has_value(); }

  // The base tokens; find() gives those that encode_piece gives alone.
  const TokenTable& tokens() const { return tokens_; }

 private:
  Status add_vocabulary(const TokenizerSpec& spec, std::string_view origin);
  Status add_merges(const TokenizerSpec& spec, std::string_view origin);
  void add_short_cuts(const TokenizerSpec& spec);
  void merge_short(std::string_view piece, std::vector<int32_t>& ids) const;
  void merge_long(std::string_view piece, std::vector<int32_t>& ids) const;

  TokenTable tokens_;
  std::array<uint32_t, 256> byte_ids_{};
  std::vector<uint32_t> products_;         // by rank
  std::vector<uint32_t> byte_pair_ranks_;  // [256 * 256] ranks of pairs of single bytes
  PairRanks pairs_;
  std::optional<LinearBpe> linear_;
};

}  // namespace cachalot::text
