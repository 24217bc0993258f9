// The table of added tokens and the search for them in raw text (reference/chat 1.3).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "text/tokenizer_spec.h"

namespace cachalot::text {

class AddedTokens {
 public:
  struct Match {
    size_t begin = 0;
    size_t end = 0;
    int32_t id = 0;
  };

  AddedTokens() : AddedTokens(std::vector<AddedToken>()) {}
  // Contents are not empty and differ; so do ids.
  explicit AddedTokens(std::vector<AddedToken> tokens);

  // The leftmost match that begins at or after `from`, the longest of those that begin there.
  // Special and other tokens alike. Cost: length of the text, times the length of the longest token
  // where texts are made to hurt.
  std::optional<Match> find(std::string_view text, size_t from) const;

  const AddedToken* by_id(int32_t id) const;
  std::optional<int32_t> by_content(std::string_view content) const;
  std::span<const AddedToken> tokens() const { return tokens_; }  // sorted by id

 private:
  // A trie in breadth-first order. A node's edges are edges_[first_edge .. next node's first_edge),
  // sorted by byte.
  struct Node {
    uint32_t first_edge = 0;
    int32_t id = -1;  // the token that ends here
  };
  struct Edge {
    uint8_t byte = 0;
    uint32_t node = 0;
  };
  uint32_t child(uint32_t node, uint8_t byte) const;  // 0 = none
  Match longest_at(std::string_view text, size_t begin) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
  std::array<uint32_t, 256> first_bytes_{};  // the root's edges: node or 0
};

}  // namespace cachalot::text
