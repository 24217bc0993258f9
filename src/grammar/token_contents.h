// What the tokens of a vocabulary are made of, so that those made of some characters, in whatever
// order, are known as a row of bits without walking them, and the others are found.
// Characters  of UTF-8. The last one of a token may be cut short and counts as one; a token that
//             can not be the beginning of UTF-8 text, or has a character that can
//             only be an odd one, is odd.
// Memory      About 15 MB for the 129,280 tokens of V4, and 8 MB for those after a space.
// Threads     Immutable; concurrent calls are safe.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "grammar/character_set.h"

namespace cachalot::grammar {

// A trie in preorder. Nodes below i at depth d are those from i + 1 on with a depth above d.
struct TrieNode {
  uint8_t byte = 0;
  uint16_t depth = 0;  // of the first byte: 0
  uint32_t skip = 0;   // the first node that is not below this one
  // Where its tokens begin in the list of tokens; they end where the next node's begin.
  uint32_t tokens = 0;
};

// Longer tokens, which are few, are in no row.
inline constexpr int kMaxShortBytes = 24;

// Of the part of a trie that lies below one place: what comes before it is no part of a token here.
class TokenContents {
 public:
  // What the bytes between the place and a node are made of.
  struct Before {
    CharacterSet characters;
    uint8_t count = 0;  // of characters, at most 255
    bool is_odd = false;
    bool is_cut = false;  // in the middle of a character
  };

  TokenContents() = default;
  // Of the nodes from `begin` to `end`, which are all that there are below a place.
  TokenContents(std::span<const TrieNode> nodes, uint32_t begin, uint32_t end,
                std::span<const int32_t> tokens, size_t row_words);

  uint32_t begin() const { return begin_; }
  uint32_t end() const { return begin_ + static_cast<uint32_t>(before_.size()); }
  const Before& before(uint32_t node) const { return before_[node - begin_]; }
  // The tokens that have each of the characters, added up.
  size_t num_tokens_with(const CharacterSet& characters) const;
  // Adds the tokens of at most kMaxShortBytes bytes and `max_count` characters, all in the set.
  void add_tokens_of(const CharacterSet& characters, int max_count, std::span<uint32_t> row) const;

  // Nodes, rising, at which a path for the first time has this ASCII character; begins another
  // character; becomes odd; has more than kMaxShortBytes bytes.
  std::span<const uint32_t> first_with(uint8_t ascii) const { return first_with_[ascii]; }
  std::span<const uint32_t> first_with_others() const { return first_with_others_; }
  std::span<const uint32_t> first_odd() const { return first_odd_; }
  std::span<const uint32_t> first_long() const { return first_long_; }

 private:
  // Rows of the tokens that have one of a range of ASCII characters: the whole range is the first,
  // the halves of i are 2 i and 2 i + 1.
  static constexpr size_t kLeaves = 128;

  std::span<uint32_t> with(size_t range) {
    return std::span(with_).subspan(range * words_, words_);
  }
  std::span<uint32_t> with_others() { return with(0); }
  std::span<uint32_t> at_most(size_t count) {
    return std::span(at_most_).subspan((count - 1) * words_, words_);
  }

  uint32_t begin_ = 0;
  size_t words_ = 0;
  std::vector<Before> before_;
  std::vector<uint32_t> with_;     // of others, then of the ranges
  std::vector<uint32_t> at_most_;  // by number of characters, of short tokens that are not odd
  std::array<size_t, kLeaves + 1> num_with_{};  // the last: others
  std::array<std::vector<uint32_t>, kLeaves> first_with_;
  std::vector<uint32_t> first_with_others_, first_odd_, first_long_;
};

}  // namespace cachalot::grammar
