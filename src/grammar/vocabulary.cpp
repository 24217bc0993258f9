#include "grammar/vocabulary.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/chat_literals.h"

namespace cachalot::grammar {
Result<Vocabulary> Vocabulary::create(const text::Tokenizer& tokenizer,
                                      std::span<const int32_t> end_tokens) {
  Vocabulary out;
  for (const text::AddedToken& token : tokenizer.added_tokens()) {
    out.controls_.emplace(token.content, token.id);
    out.controls_by_id_.emplace(token.id, true);
  }
  out.end_tokens_.assign(end_tokens.begin(), end_tokens.end());
  if (end_tokens.empty()) {
    const auto end = out.control(text::kEos);
    if (!end) {
      return invalid_argument(
          fmt::format("vocabulary: expected an added token {}, found none", text::kEos));
    }
    out.end_tokens_ = {*end};
  }
  for (const int32_t token : out.end_tokens_) {
    if (!out.is_control(token)) {
      return invalid_argument(
          fmt::format("vocabulary: end token {}: expected an added token, found another", token));
    }
  }
  // Longer tokens than this, which no tokenizer has, are left out of every mask.
  constexpr size_t kMaxTokenBytes = 4096;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const auto bytes = tokenizer.token_bytes(id);
    std::string_view text;
    if (bytes.has_value() && !out.is_control(id) && bytes->size() <= kMaxTokenBytes) text = *bytes;
    out.tokens_.emplace_back(static_cast<uint32_t>(out.bytes_.size()),
                             static_cast<uint32_t>(text.size()));
    out.bytes_ += text;
    out.longest_ = std::max(out.longest_, static_cast<int32_t>(text.size()));
  }
  out.build_trie();
  out.build_contents();
  return out;
}

std::string_view Vocabulary::text_bytes(int32_t token) const {
  if (token < 0 || token >= size()) return {};
  const auto [begin, size] = tokens_[static_cast<size_t>(token)];
  return std::string_view(bytes_).substr(begin, size);
}

bool Vocabulary::is_end(int32_t token) const {
  return std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end();
}

std::optional<int32_t> Vocabulary::control(std::string_view content) const {
  const auto it = controls_.find(std::string(content));
  return it == controls_.end() ? std::nullopt : std::optional(it->second);
}

void Vocabulary::build_trie() {
  std::vector<int32_t> order;
  for (int32_t id = 0; id < size(); ++id) {
    if (!text_bytes(id).empty()) order.push_back(id);
  }
  std::sort(order.begin(), order.end(), [this](int32_t a, int32_t b) {
    return std::pair(text_bytes(a), a) < std::pair(text_bytes(b), b);
  });
  std::vector<uint32_t> path;  // the nodes of the token before, by depth
  std::string_view before;
  const auto leave = [&](size_t depth) {
    for (; path.size() > depth; path.pop_back())
      nodes_[path.back()].skip = static_cast<uint32_t>(nodes_.size());
  };
  for (const int32_t id : order) {
    const std::string_view bytes = text_bytes(id);
    const auto [mine, other] =
        std::mismatch(bytes.begin(), bytes.end(), before.begin(), before.end());
    leave(static_cast<size_t>(mine - bytes.begin()));
    while (path.size() < bytes.size()) {
      TrieNode node;
      node.byte = static_cast<uint8_t>(bytes[path.size()]);
      node.depth = static_cast<uint16_t>(path.size());
      node.tokens = static_cast<uint32_t>(trie_tokens_.size());
      path.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.push_back(node);
    }
    trie_tokens_.push_back(id);
    before = bytes;
  }
  leave(0);
  TrieNode end;
  end.skip = static_cast<uint32_t>(nodes_.size());
  end.tokens = static_cast<uint32_t>(trie_tokens_.size());
  nodes_.push_back(end);
}

void Vocabulary::build_contents() {
  const auto end = static_cast<uint32_t>(nodes_.size() - 1);
  contents_ = TokenContents(nodes_, 0, end, trie_tokens_, row_words());
  for (uint32_t i = 0; i < end; i = nodes_[i].skip) {
    if (nodes_[i].byte == ' ')
      after_space_ = TokenContents(nodes_, i + 1, nodes_[i].skip, trie_tokens_, row_words());
  }
}

}  // namespace cachalot::grammar
