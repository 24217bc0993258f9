// What the tokens of a vocabulary are made of, so that those made of some characters, in whatever
// order, are known as a row of bits without walking them, and the others are found.
// Characters  of UTF-8. The last one of a token may be cut short and counts as one; a token that
//             can not be the beginning of UTF-8 text, or has a character that can
//             only be an odd one, is odd. One whose last character is cut so short that
//             its group is open is in no row.
// Memory      About 17 MB for the 129,280 tokens of V4, and 10 MB for those after a space.
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

// Rows of the tokens that have one of some characters, for ranges of characters: the whole range is
// the first, the halves of i are 2 i and 2 i + 1.
class RowsOfRanges {
 public:
  RowsOfRanges() = default;
  // num_leaves: a power of two.
  RowsOfRanges(size_t num_leaves, size_t words)
      : num_leaves_(num_leaves), words_(words), rows_(2 * num_leaves * words), count_(num_leaves) {}

  void add(size_t leaf, int32_t token);
  void close();  // after the last one is added
  size_t num_tokens_with(size_t leaf) const { return count_[leaf]; }
  // Appends rows that are together those of the leaves which the set does not have.
  void append_others(std::span<const uint64_t> set, std::vector<const uint32_t*>& rows) const;

 private:
  std::span<uint32_t> row(size_t range) { return std::span(rows_).subspan(range * words_, words_); }

  size_t num_leaves_ = 0, words_ = 0;
  std::vector<uint32_t> rows_;
  std::vector<size_t> count_;
};

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

  // Nodes, rising, at which a path for the first time has this ASCII character; shows that it has
  // one of this group; becomes odd; has more than kMaxShortBytes bytes.
  std::span<const uint32_t> first_with(uint8_t ascii) const { return first_with_[ascii]; }
  std::span<const uint32_t> first_with_group(size_t group) const {
    return first_with_group_[group];
  }
  std::span<const uint32_t> first_odd() const { return first_odd_; }
  std::span<const uint32_t> first_long() const { return first_long_; }
  // Nodes of tokens whose last character is of an open group.
  std::span<const uint32_t> open() const { return open_; }

 private:
  static constexpr size_t kAscii = 128;

  std::span<uint32_t> at_most(size_t count) {
    return std::span(at_most_).subspan((count - 1) * words_, words_);
  }

  uint32_t begin_ = 0;
  size_t words_ = 0;
  std::vector<Before> before_;
  RowsOfRanges with_ascii_, with_group_;
  std::vector<uint32_t> at_most_;  // by number of characters, of short tokens that are not odd
  std::array<std::vector<uint32_t>, kAscii> first_with_;
  std::array<std::vector<uint32_t>, kNumGroups> first_with_group_;
  std::vector<uint32_t> first_odd_, first_long_, open_;
};

}  // namespace cachalot::grammar
