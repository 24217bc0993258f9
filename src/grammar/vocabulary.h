// A tokenizer's tokens as a trie over their bytes, for walking all of them through a grammar.
// Control  Added tokens stand apart: their spelling never counts as text.
// Memory   About 7 MB for the 129,280 tokens of V4.
// Threads  Immutable; concurrent calls are safe.
#pragma once

#include <array>
#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "text/tokenizer.h"

namespace cachalot::grammar {

// Classes of characters that grammars often take any number of. A token whose text is whole
// characters of one class is known without walking it wherever a set takes that many of them.
enum class CharacterClass { text, line, word };
inline constexpr CharacterClass kCharacterClasses[] = {CharacterClass::text, CharacterClass::line,
                                                       CharacterClass::word};
inline constexpr int kMaxClassCharacters = 16;
// text: all but < and ｜, with which tags begin; line: of these, none below a space, no quote and no
// backslash; word: ASCII letters, digits, _ and the space.
bool is_in(CharacterClass c, uint32_t code_point);

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

  // The trie in preorder. Nodes below i at depth d are those from i + 1 on with a depth above d.
  struct Node {
    uint8_t byte = 0;
    uint16_t depth = 0;  // of the first byte: 0
    uint32_t skip = 0;   // the first node that is not below this one
    // Where its tokens begin in trie_tokens(); they end where the next node's begin.
    uint32_t tokens = 0;
  };
  std::span<const Node> trie() const { return nodes_; }  // with one more at the end
  std::span<const int32_t> trie_tokens() const { return trie_tokens_; }
  // By trie node: the most characters of a token at or below it, if all of those tokens are whole
  // characters of the class; kMaxClassCharacters + 1 if they are not, or are longer.
  std::span<const uint8_t> class_characters(CharacterClass c) const {
    return class_characters_[static_cast<size_t>(c)];
  }
  // The tokens of 1 to `count` characters of the class, as a row. count <= kMaxClassCharacters.
  std::span<const uint32_t> class_row(CharacterClass c, int count) const {
    const size_t i =
        static_cast<size_t>(c) * (kMaxClassCharacters + 1) + static_cast<size_t>(count);
    return std::span(class_rows_).subspan(i * row_words(), row_words());
  }

 private:
  Vocabulary() = default;
  void build_trie();
  void build_classes();

  std::string bytes_;
  std::vector<std::pair<uint32_t, uint32_t>> tokens_;  // begin and size in bytes_
  std::unordered_map<std::string, int32_t> controls_;
  std::unordered_map<int32_t, bool> controls_by_id_;
  std::vector<int32_t> end_tokens_;
  std::vector<Node> nodes_;
  std::vector<int32_t> trie_tokens_;
  std::array<std::vector<uint8_t>, std::size(kCharacterClasses)> class_characters_;
  std::vector<uint32_t> class_rows_;
  int32_t longest_ = 0;
};

}  // namespace cachalot::grammar
