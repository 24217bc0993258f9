// BPE of a piece in linear time, without merging: the longest token that fits, and back where it
// does not.
//
// Why this is exact. In a *proper* merge list each token is the product of one rule, and a rule's
// operands are bytes or products of earlier rules; so the ranks of the merges that BPE carries out
// never decrease. Then:
//   1. tokens t1..tn are the BPE of their text if and only if each neighbouring pair is the BPE of
//      its own text: the first merge across a border between ti and ti+1 would happen in that pair
//      alone too, and conversely;
//   2. a pair (t, u) is its own BPE unless, while both are being built, the last symbol of t and
//      the first of u are a pair of a rank that is due before either of the two is merged away;
//   3. BPE of a prefix is unique, so a position from which no token continues is dead however it
//      was reached.
// Merge lists that are not proper are left to merging (bpe.h).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "text/bpe_pairs.h"
#include "text/bpe_tokens.h"
#include "text/tokenizer_spec.h"

namespace cachalot::text {

class LinearBpe {
 public:
  // `parts`: the ids that BPE gives for their own bytes, all entered in `tokens` as parts; the 256
  // bytes are among them. nullopt if the merge list is not proper.
  static std::optional<LinearBpe> build(std::span<const Merge> merges,
                                        std::span<const uint32_t> parts, const TokenTable& tokens);

  // Appends the ids of `piece`. Memory: one bit per byte. `pairs` and `tokens` are those of the
  // merge list.
  void encode(const PairRanks& pairs, const TokenTable& tokens, std::string_view piece,
              std::vector<int32_t>& ids) const;

 private:
  // How a token is made, in one word: the tables that stays_apart reads at random should stay in
  // the second-level cache.
  struct Derivation {
    uint64_t due : 22 = 0;  // 0 for a byte, else 1 + the rank of the rule
    uint64_t left : 21 = 0;
    uint64_t right : 21 = 0;
  };
  static_assert(sizeof(Derivation) == 8);

  bool stays_apart(const PairRanks& pairs, uint32_t left, uint32_t right) const;

  std::vector<Derivation> derivations_;  // by id
  std::vector<uint32_t> shorter_;        // by id: the longest part that is a proper prefix of it
};

}  // namespace cachalot::text
