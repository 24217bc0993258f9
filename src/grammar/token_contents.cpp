#include "grammar/token_contents.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "grammar/utf8_bytes.h"

namespace cachalot::grammar {
namespace {

void set_bit(std::span<uint32_t> row, int32_t token) {
  row[static_cast<size_t>(token) / 32] |= 1u << (token % 32);
}

}  // namespace

void RowsOfRanges::add(size_t leaf, int32_t token) {
  set_bit(row(num_leaves_ + leaf), token);
  ++count_[leaf];
}

void RowsOfRanges::close() {
  for (size_t i = num_leaves_; i-- > 1;) {
    for (size_t word = 0; word < words_; ++word)
      row(i)[word] = row(2 * i)[word] | row(2 * i + 1)[word];
  }
}

void RowsOfRanges::append_others(std::span<const uint64_t> set,
                                 std::vector<const uint32_t*>& rows) const {
  // The largest ranges that have none of the set's.
  std::vector<size_t> ranges = {1};
  while (!ranges.empty()) {
    const size_t range = ranges.back();
    ranges.pop_back();
    const int level = std::bit_width(num_leaves_) - std::bit_width(range);
    const size_t size = size_t{1} << level, begin = (range << level) - num_leaves_;
    size_t num_inside = 0, num_tokens = 0;
    for (size_t leaf = begin; leaf < begin + size; ++leaf) {
      const bool is_inside = (set[leaf / 64] >> (leaf % 64) & 1) != 0;
      num_inside += is_inside;
      num_tokens += is_inside ? 0 : count_[leaf];
    }
    if (num_tokens == 0) continue;
    if (num_inside == 0) {
      rows.push_back(rows_.data() + range * words_);
    } else {
      ranges.insert(ranges.end(), {2 * range, 2 * range + 1});
    }
  }
}

TokenContents::TokenContents(std::span<const TrieNode> nodes, uint32_t begin, uint32_t end,
                             std::span<const int32_t> tokens, size_t row_words)
    : begin_(begin),
      words_(row_words),
      before_(end - begin),
      with_ascii_(kAscii, row_words),
      with_group_(64, row_words),
      at_most_(kMaxShortBytes * row_words) {
  if (begin == end) return;
  const int place = nodes[begin].depth;
  int longest = 0;
  for (uint32_t i = begin; i < end; ++i) longest = std::max<int>(longest, nodes[i].depth);
  std::vector<Before> path(static_cast<size_t>(longest - place) + 2);
  std::vector<Utf8Place> texts(path.size());
  for (uint32_t i = begin; i < end; ++i) {
    const TrieNode& node = nodes[i];
    const auto depth = static_cast<size_t>(node.depth - place);
    const Before& before = before_[i - begin] = path[depth];
    Before& here = path[depth + 1] = before;
    Utf8Place& text = texts[depth + 1] = texts[depth];
    bool is_open = false;
    if (!before.is_odd) {
      const bool is_first = text.missing == 0;
      here.is_odd = !text.take(node.byte) || (node.byte >= 0x80 && is_odd(text.bits, text.missing));
      here.is_cut = text.missing > 0;
      if (here.is_odd) {
        first_odd_.push_back(i);
      } else {
        if (is_first && here.count < UINT8_MAX) ++here.count;
        if (node.byte < 0x80) {
          if (!before.characters.has(node.byte)) first_with_[node.byte].push_back(i);
          here.characters.add(node.byte);
        } else {
          const uint64_t groups = groups_of(text.bits, text.missing);
          is_open = !std::has_single_bit(groups);
          if (!is_open && (groups & ~before.characters.groups) != 0) {
            first_with_group_[static_cast<size_t>(std::countr_zero(groups))].push_back(i);
            here.characters.groups |= groups;
          }
        }
      }
    }
    if (depth == kMaxShortBytes) first_long_.push_back(i);
    const uint32_t end_tokens = nodes[i + 1].tokens;
    if (here.is_odd || node.tokens == end_tokens) continue;
    if (is_open) open_.push_back(i);
    for (uint32_t t = node.tokens; t < end_tokens && !is_open; ++t) {
      for (size_t c = 0; c < kAscii; ++c) {
        if (here.characters.has(static_cast<uint8_t>(c))) with_ascii_.add(c, tokens[t]);
      }
      for (uint64_t left = here.characters.groups; left != 0; left &= left - 1)
        with_group_.add(static_cast<size_t>(std::countr_zero(left)), tokens[t]);
      if (depth < kMaxShortBytes) set_bit(at_most(here.count), tokens[t]);
    }
  }
  with_ascii_.close();
  with_group_.close();
  for (size_t count = 2; count <= kMaxShortBytes; ++count) {
    for (size_t word = 0; word < words_; ++word) at_most(count)[word] |= at_most(count - 1)[word];
  }
}

size_t TokenContents::num_tokens_with(const CharacterSet& characters) const {
  size_t sum = 0;
  for (size_t half = 0; half < 2; ++half) {
    for (uint64_t left = characters.ascii[half]; left != 0; left &= left - 1)
      sum += with_ascii_.num_tokens_with(64 * half + static_cast<size_t>(std::countr_zero(left)));
  }
  for (uint64_t left = characters.groups; left != 0; left &= left - 1)
    sum += with_group_.num_tokens_with(static_cast<size_t>(std::countr_zero(left)));
  return sum;
}

void TokenContents::add_tokens_of(const CharacterSet& characters, int max_count,
                                  std::span<uint32_t> row) const {
  CACHALOT_DCHECK(0 < max_count && max_count <= kMaxShortBytes && row.size() == words_);
  std::vector<const uint32_t*> others;
  with_ascii_.append_others(characters.ascii, others);
  with_group_.append_others(std::span(&characters.groups, 1), others);
  const uint32_t* all = at_most_.data() + static_cast<size_t>(max_count - 1) * words_;
  constexpr size_t kBlock = 64;
  for (size_t begin = 0; begin < words_; begin += kBlock) {
    const size_t size = std::min(kBlock, words_ - begin);
    std::array<uint32_t, kBlock> excluded{};
    for (const uint32_t* with : others) {
      for (size_t i = 0; i < size; ++i) excluded[i] |= with[begin + i];
    }
    for (size_t i = 0; i < size; ++i) row[begin + i] |= all[begin + i] & ~excluded[i];
  }
}

}  // namespace cachalot::grammar
