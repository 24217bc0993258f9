// A tokenizer's tokens as a trie over their bytes, for walking all of them through a grammar.
// Control  Added tokens stand apart: their spelling never counts as text.
// Memory   About 30 MB for the 129,280 tokens of V4.
// Threads  Immutable; concurrent calls are safe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "grammar/token_contents.h"
#include "text/tokenizer.h"

namespace cachalot::grammar {

class Vocabulary {
 public:
  // Any of `end_tokens` ends a sequence; none given: the token that the prompt format ends turns
  // with. Errors: invalid_argument where an id is no added token, or there is none to end with.
  static Result<Vocabulary> create(const text::Tokenizer& tokenizer,
                                   std::span<const int32_t> end_tokens = {});

  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }
  // 32-bit words of a mask row: token t is bit t % 32 of word t / 32.
  size_t row_words() const { return (tokens_.size() + 31) / 32; }
  // Empty for control tokens and for ids that no token has.
  std::string_view text_bytes(int32_t token) const;
  bool is_control(int32_t token) const { return controls_by_id_.contains(token); }
  bool is_end(int32_t token) const;
  std::span<const int32_t> end_tokens() const { return end_tokens_; }
  std::optional<int32_t> control(std::string_view content) const;
  int32_t longest_token() const { return longest_; }

  std::span<const TrieNode> trie() const { return nodes_; }  // with one more at the end
  std::span<const int32_t> trie_tokens() const { return trie_tokens_; }
  // Of the whole trie.
  const TokenContents& contents() const { return contents_; }
  // The same, or, where the nodes are some of them, that of what comes after a space: with it
  // begins nearly half of the words.
  const TokenContents& contents(uint32_t begin, uint32_t end) const {
    const bool is_after_space = begin >= after_space_.begin() && end <= after_space_.end();
    return is_after_space ? after_space_ : contents_;
  }

 private:
  Vocabulary() = default;
  void build_trie();
  void build_contents();

  std::string bytes_;
  std::vector<std::pair<uint32_t, uint32_t>> tokens_;  // begin and size in bytes_
  std::unordered_map<std::string, int32_t> controls_;
  std::unordered_map<int32_t, bool> controls_by_id_;
  std::vector<int32_t> end_tokens_;
  std::vector<TrieNode> nodes_;
  std::vector<int32_t> trie_tokens_;
  TokenContents contents_, after_space_;
  int32_t longest_ = 0;
};

}  // namespace cachalot::grammar
