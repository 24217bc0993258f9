#include "text/tokenizer_added_tokens.h"

#include <algorithm>

namespace cachalot::text {

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  // Each node of the trie is a range of the sorted contents that share its path; ranges are split
  // level by level.
  struct Range {
    size_t begin, end, depth;
  };
  std::sort(tokens_.begin(), tokens_.end(),
            [](const auto& a, const auto& b) { return a.content < b.content; });
  std::vector<Range> ranges = {{0, tokens_.size(), 0}};
  for (size_t node = 0; node < ranges.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    nodes_.push_back({static_cast<uint32_t>(edges_.size()), -1});
    if (begin < end && tokens_[begin].content.size() == depth)
      nodes_[node].id = tokens_[begin++].id;
    while (begin < end) {
      const char byte = tokens_[begin].content[depth];
      size_t same = begin + 1;
      while (same < end && tokens_[same].content[depth] == byte) ++same;
      edges_.push_back({static_cast<uint8_t>(byte), static_cast<uint32_t>(ranges.size())});
      if (node == 0) first_bytes_[static_cast<uint8_t>(byte)] = edges_.back().node;
      ranges.push_back({begin, same, depth + 1});
      begin = same;
    }
  }
  nodes_.push_back({static_cast<uint32_t>(edges_.size()), -1});  // ends the last node's edges
  std::sort(tokens_.begin(), tokens_.end(),
            [](const auto& a, const auto& b) { return a.id < b.id; });
}

uint32_t AddedTokens::child(uint32_t node, uint8_t byte) const {
  for (uint32_t i = nodes_[node].first_edge; i < nodes_[node + 1].first_edge; ++i) {
    if (edges_[i].byte == byte) return edges_[i].node;
  }
  return 0;
}

AddedTokens::Match AddedTokens::longest_at(std::string_view text, size_t begin) const {
  Match match;
  uint32_t node = first_bytes_[static_cast<uint8_t>(text[begin])];
  for (size_t end = begin + 1; node != 0; ++end) {
    if (nodes_[node].id >= 0) match = {begin, end, nodes_[node].id};
    if (end == text.size()) break;
    node = child(node, static_cast<uint8_t>(text[end]));
  }
  return match;
}

std::optional<AddedTokens::Match> AddedTokens::find(std::string_view text, size_t from) const {
  for (size_t i = from; i < text.size(); ++i) {
    if (first_bytes_[static_cast<uint8_t>(text[i])] == 0) continue;
    const Match match = longest_at(text, i);
    if (match.end != 0) return match;
  }
  return std::nullopt;
}

const AddedToken* AddedTokens::by_id(int32_t id) const {
  const auto it = std::lower_bound(tokens_.begin(), tokens_.end(), id,
                                   [](const AddedToken& t, int32_t i) { return t.id < i; });
  return it != tokens_.end() && it->id == id ? &*it : nullptr;
}

std::optional<int32_t> AddedTokens::by_content(std::string_view content) const {
  if (content.empty()) return std::nullopt;
  const Match match = longest_at(content, 0);
  return match.end == content.size() ? std::optional(match.id) : std::nullopt;
}

}  // namespace cachalot::text
