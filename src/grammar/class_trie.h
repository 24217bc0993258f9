// The tokens of a vocabulary as a trie over classes of characters, for walking all of them through
// a grammar that does not tell the characters of a class apart: of V4's 274,130 nodes hundreds or
// thousands are left.
// Symbols  The classes, by number, and after them the bytes from 0x80 on: those of a token that are
//          no whole character.
// Memory   2 to 8 MB for the 129,280 tokens of V4.
// Threads  Immutable; concurrent calls are safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "grammar/character_classes.h"
#include "grammar/vocabulary.h"

namespace cachalot::grammar {

// In preorder, as TrieNode.
struct ClassNode {
  uint16_t symbol = 0;
  uint16_t depth = 0;
  uint32_t skip = 0;
  // Where its tokens, and the vocabulary's nodes that it stands for, begin.
  uint32_t tokens = 0, places = 0;
};

class ClassTrie {
 public:
  ClassTrie(const Vocabulary& vocabulary, const CharacterClasses& classes);

  std::span<const ClassNode> nodes() const { return nodes_; }  // with one more at the end
  uint32_t longest() const { return longest_; }                // symbols of a token
  std::string_view bytes(uint16_t symbol) const { return bytes_[symbol]; }
  // Adds the tokens of nodes; they are given as ranges of tokens, rising.
  void add_tokens(std::span<const std::pair<uint32_t, uint32_t>> ranges,
                  std::span<uint32_t> row) const;
  // Nodes of the vocabulary's trie, rising, that have others below them.
  std::span<const uint32_t> places(uint32_t node) const {
    return std::span(places_).subspan(nodes_[node].places,
                                      nodes_[node + 1].places - nodes_[node].places);
  }
  size_t memory_bytes() const {
    return nodes_.size() * sizeof(ClassNode) +
           (tokens_.size() + places_.size() + rows_.size() + large_rows_.size()) * sizeof(uint32_t);
  }

 private:
  class Builder;
  // Of ranges, those that are in a block.
  struct Within {
    std::span<const std::pair<uint32_t, uint32_t>> ranges;
    uint32_t num_tokens = 0;
    size_t num_ended = 0;
  };
  static constexpr uint32_t kBlock = 4096, kLargeBlock = 8 * kBlock;

  static Within ranges_within(std::span<const std::pair<uint32_t, uint32_t>> ranges, uint32_t begin,
                              uint32_t end);
  void add_all_but(const uint32_t* all, std::span<const std::pair<uint32_t, uint32_t>> ranges,
                   uint32_t begin, uint32_t end, std::span<uint32_t> added) const;

  size_t row_words_ = 0;
  uint32_t longest_ = 0;
  std::vector<ClassNode> nodes_;
  std::vector<std::string> bytes_;  // by symbol
  std::vector<int32_t> tokens_;
  std::vector<uint32_t> places_;
  std::vector<uint32_t> rows_, large_rows_;  // of each kBlock tokens, of each kLargeBlock
};

}  // namespace cachalot::grammar
