#include "grammar/class_trie.h"

#include <algorithm>
#include <utility>

#include "grammar/utf8_bytes.h"

namespace cachalot::grammar {
namespace {

void set_bit(std::span<uint32_t> row, int32_t token) {
  row[static_cast<size_t>(token) / 32] |= 1u << (token % 32);
}

}  // namespace

class ClassTrie::Builder {
 public:
  Builder(const Vocabulary& vocabulary, const CharacterClasses& classes, ClassTrie& out)
      : vocabulary_(vocabulary), classes_(classes), out_(out) {}

  void run() {
    read();
    arrange();
  }

 private:
  struct Made {
    uint16_t symbol = 0;
    int32_t first_child = -1, last_child = -1, next = -1;
    uint32_t last_place = UINT32_MAX;
  };
  // After a node of the vocabulary's trie.
  struct At {
    int32_t made = 0;  // after the last whole character
    Utf8Place text;
    uint32_t num_pending = 0;  // bytes after it
  };

  // The child by a symbol.
  int32_t child(int32_t parent, uint32_t symbol) {
    const uint64_t key = static_cast<uint64_t>(parent) << 16 | symbol;
    size_t slot = (key * 0x9E3779B97F4A7C15u) >> shift_;
    for (; slots_[slot].second >= 0; slot = (slot + 1) & (slots_.size() - 1)) {
      if (slots_[slot].first == key) return slots_[slot].second;
    }
    const auto id = static_cast<int32_t>(made_.size());
    slots_[slot] = {key, id};
    made_.push_back({.symbol = static_cast<uint16_t>(symbol)});
    Made& from = made_[static_cast<size_t>(parent)];
    if (from.last_child < 0) {
      from.first_child = id;
    } else {
      made_[static_cast<size_t>(from.last_child)].next = id;
    }
    from.last_child = id;
    return id;
  }
  void put(int32_t made, uint32_t place) {
    Made& to = made_[static_cast<size_t>(made)];
    if (to.last_place == place) return;
    to.last_place = place;
    if (vocabulary_.trie()[place].skip > place + 1) placed_.emplace_back(made, place);
  }
  // What is pending, byte by byte.
  int32_t spelled(const At& at, size_t depth) {
    int32_t made = at.made;
    for (size_t i = depth - at.num_pending; i < depth; ++i) {
      const uint8_t byte = vocabulary_.trie()[path_[i]].byte;
      made = child(made, classes_.num_classes() + byte - 0x80);
      put(made, path_[i]);
    }
    return made;
  }

  void read() {
    const auto nodes = vocabulary_.trie();
    size_t num_slots = 2;
    while (num_slots < 3 * nodes.size()) num_slots *= 2;
    slots_.assign(num_slots, {0, -1});
    shift_ = 64 - std::countr_zero(num_slots);
    made_.push_back({});
    const auto longest = static_cast<size_t>(vocabulary_.longest_token());
    std::vector<At> stack(longest + 1);
    path_.resize(longest);
    token_at_.reserve(vocabulary_.trie_tokens().size());
    for (uint32_t i = 0; i + 1 < nodes.size(); ++i) {
      const TrieNode& node = nodes[i];
      const At& before = stack[node.depth];
      At& here = stack[node.depth + 1u] = before;
      path_[node.depth] = i;
      if (!here.text.take(node.byte)) {
        here.made = spelled(before, node.depth);
        here.num_pending = 0;
        here.text = {};
        if (!here.text.take(node.byte)) {
          here.made = child(here.made, classes_.num_classes() + node.byte - 0x80);
          put(here.made, i);
          end_tokens(here.made, i);
          continue;
        }
      }
      if (here.text.missing > 0) {
        ++here.num_pending;
        if (node.tokens < nodes[i + 1].tokens) end_tokens(spelled(here, node.depth + 1u), i);
        continue;
      }
      here.made = child(here.made, classes_.of(node.byte < 0x80 ? node.byte : here.text.bits));
      here.num_pending = 0;
      put(here.made, i);
      end_tokens(here.made, i);
    }
  }
  void end_tokens(int32_t made, uint32_t place) {
    const auto nodes = vocabulary_.trie();
    token_at_.insert(token_at_.end(), nodes[place + 1].tokens - nodes[place].tokens, made);
  }

  // Into preorder.
  void arrange() {
    std::vector<uint32_t> order(made_.size());  // made: node
    std::vector<std::pair<int32_t, uint16_t>> stack;
    std::vector<uint32_t> path;
    const auto leave = [&](size_t depth) {
      for (; path.size() > depth; path.pop_back())
        out_.nodes_[path.back()].skip = static_cast<uint32_t>(out_.nodes_.size());
    };
    const auto push = [&](int32_t made, size_t depth) {
      if (made >= 0) stack.emplace_back(made, static_cast<uint16_t>(depth));
    };
    push(made_[0].first_child, 0);
    while (!stack.empty()) {
      const auto [id, depth] = stack.back();
      stack.pop_back();
      const Made& made = made_[static_cast<size_t>(id)];
      leave(depth);
      order[static_cast<size_t>(id)] = static_cast<uint32_t>(out_.nodes_.size());
      path.push_back(static_cast<uint32_t>(out_.nodes_.size()));
      out_.longest_ = std::max<uint32_t>(out_.longest_, depth + 1u);
      out_.nodes_.push_back({.symbol = made.symbol, .depth = depth});
      push(made.next, depth);
      push(made.first_child, depth + 1u);
    }
    leave(0);
    out_.nodes_.push_back({.skip = static_cast<uint32_t>(out_.nodes_.size())});

    const auto trie_tokens = vocabulary_.trie_tokens();
    out_.tokens_.resize(trie_tokens.size());
    std::vector<uint32_t> ends(out_.nodes_.size());
    for (const int32_t made : token_at_) ++ends[order[static_cast<size_t>(made)]];
    set_begins(ends, &ClassNode::tokens);
    for (size_t t = 0; t < trie_tokens.size(); ++t)
      out_.tokens_[ends[order[static_cast<size_t>(token_at_[t])]]++] = trie_tokens[t];

    out_.places_.resize(placed_.size());
    ends.assign(ends.size(), 0);
    for (const auto& [made, place] : placed_) ++ends[order[static_cast<size_t>(made)]];
    set_begins(ends, &ClassNode::places);
    for (const auto& [made, place] : placed_)
      out_.places_[ends[order[static_cast<size_t>(made)]]++] = place;

    const size_t words = vocabulary_.row_words();
    const auto make_rows = [&](uint32_t block, std::vector<uint32_t>& rows) {
      rows.resize((out_.tokens_.size() + block - 1) / block * words);
      for (size_t t = 0; t < out_.tokens_.size(); ++t)
        set_bit(std::span(rows).subspan(t / block * words, words), out_.tokens_[t]);
    };
    make_rows(kBlock, out_.rows_);
    make_rows(kLargeBlock, out_.large_rows_);
  }
  // Counts become begins.
  void set_begins(std::vector<uint32_t>& counts, uint32_t ClassNode::*begin) {
    uint32_t sum = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      out_.nodes_[i].*begin = sum;
      sum += std::exchange(counts[i], sum);
    }
  }

  const Vocabulary& vocabulary_;
  const CharacterClasses& classes_;
  ClassTrie& out_;
  std::vector<Made> made_;  // the first is the root
  std::vector<std::pair<uint64_t, int32_t>> slots_;
  int shift_ = 0;
  std::vector<uint32_t> path_;  // the vocabulary's nodes above, by depth
  std::vector<int32_t> token_at_;
  std::vector<std::pair<int32_t, uint32_t>> placed_;
};

ClassTrie::ClassTrie(const Vocabulary& vocabulary, const CharacterClasses& classes)
    : row_words_(vocabulary.row_words()) {
  for (uint32_t cls = 0; cls < classes.num_classes(); ++cls) bytes_.push_back(classes.example(cls));
  for (uint32_t byte = 0x80; byte < 0x100; ++byte) bytes_.emplace_back(1, static_cast<char>(byte));
  Builder(vocabulary, classes, *this).run();
}

void ClassTrie::add_tokens(std::span<const std::pair<uint32_t, uint32_t>> ranges,
                           std::span<uint32_t> row) const {
  const auto num_tokens = static_cast<uint32_t>(tokens_.size());
  std::vector<uint32_t> added(row_words_);
  for (uint32_t begin = 0; begin < num_tokens && !ranges.empty(); begin += kLargeBlock) {
    const uint32_t end = std::min(begin + kLargeBlock, num_tokens);
    const Within all = ranges_within(ranges, begin, end);
    if (all.num_tokens + kBlock / 2 >= end - begin) {
      add_all_but(large_rows_.data() + begin / kLargeBlock * row_words_, all.ranges, begin, end,
                  added);
    } else if (all.num_tokens > 0) {
      auto left = all.ranges;
      for (uint32_t at = begin; at < end; at += kBlock) {
        const uint32_t until = std::min(at + kBlock, end);
        const Within here = ranges_within(left, at, until);
        left = left.subspan(here.num_ended);
        if (2 * here.num_tokens >= until - at) {
          add_all_but(rows_.data() + at / kBlock * row_words_, here.ranges, at, until, added);
          continue;
        }
        for (const auto& [from, to] : here.ranges) {
          for (uint32_t t = std::max(from, at); t < std::min(to, until); ++t)
            set_bit(added, tokens_[t]);
        }
      }
    }
    ranges = ranges.subspan(all.num_ended);
  }
  for (size_t word = 0; word < row_words_; ++word) row[word] |= added[word];
}

ClassTrie::Within ClassTrie::ranges_within(std::span<const std::pair<uint32_t, uint32_t>> ranges,
                                           uint32_t begin, uint32_t end) {
  Within within;
  for (const auto& [from, to] : ranges) {
    if (from < end) within.num_tokens += std::min(to, end) - std::max(from, begin);
    if (to > end) break;
    ++within.num_ended;
  }
  within.ranges = ranges.first(std::min(within.num_ended + 1, ranges.size()));
  return within;
}

// The row's tokens, and out with those between the ranges.
void ClassTrie::add_all_but(const uint32_t* all,
                            std::span<const std::pair<uint32_t, uint32_t>> ranges, uint32_t begin,
                            uint32_t end, std::span<uint32_t> added) const {
  for (size_t word = 0; word < row_words_; ++word) added[word] |= all[word];
  uint32_t at = begin;
  const auto remove_until = [&](uint32_t until) {
    for (; at < until; ++at)
      added[static_cast<size_t>(tokens_[at]) / 32] &= ~(1u << (tokens_[at] % 32));
  };
  for (const auto& [from, to] : ranges) {
    remove_until(std::min(from, end));
    at = std::max(at, to);
  }
  remove_until(end);
}

}  // namespace cachalot::grammar
