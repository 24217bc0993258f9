#include "data/packing.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace cachalot::data {
namespace {

// A set of integers in [0, size) that finds its least member at or above a value: a tree whose
// nodes have 64 children, one bit each.
class OrderedSet {
 public:
  explicit OrderedSet(int64_t size) {
    for (;;) {
      size = (size + 63) / 64;
      levels_.emplace_back(static_cast<size_t>(size), 0);
      if (size <= 1) break;
    }
  }

  void insert(int64_t value) {
    for (auto& level : levels_) {
      level[static_cast<size_t>(value / 64)] |= uint64_t{1} << (value % 64);
      value /= 64;
    }
  }

  void erase(int64_t value) {
    for (auto& level : levels_) {
      uint64_t& word = level[static_cast<size_t>(value / 64)];
      word &= ~(uint64_t{1} << (value % 64));
      if (word != 0) return;
      value /= 64;
    }
  }

  // -1 if there is none.
  int64_t at_or_above(int64_t value) const {
    size_t depth = 0;
    for (; depth < levels_.size(); ++depth) {
      const auto idx = static_cast<size_t>(value / 64);
      if (idx >= levels_[depth].size()) return -1;
      const uint64_t rest = levels_[depth][idx] >> (value % 64);
      if (rest != 0) {
        value += std::countr_zero(rest);
        break;
      }
      value = value / 64 + 1;
    }
    if (depth == levels_.size()) return -1;
    while (depth-- > 0) {
      value = value * 64 + std::countr_zero(levels_[depth][static_cast<size_t>(value)]);
    }
    return value;
  }

 private:
  std::vector<std::vector<uint64_t>> levels_;  // leaves first
};

// Open sequences by the room they have left; those of equal room form a stack.
class OpenPacks {
 public:
  explicit OpenPacks(int64_t sequence_length)
      : rooms_(sequence_length + 1), top_(static_cast<size_t>(sequence_length) + 1, -1) {}

  // The pack with the least room >= length, taken out; -1 if none. *room is what it had.
  int64_t take_best(int64_t length, int64_t* room) {
    *room = rooms_.at_or_above(length);
    if (*room < 0) return -1;
    int64_t& top = top_[static_cast<size_t>(*room)];
    const int64_t pack = top;
    top = below_[static_cast<size_t>(pack)];
    if (top < 0) rooms_.erase(*room);
    return pack;
  }

  void put(int64_t pack, int64_t room) {
    if (static_cast<size_t>(pack) >= below_.size()) below_.resize(static_cast<size_t>(pack) + 1);
    int64_t& top = top_[static_cast<size_t>(room)];
    below_[static_cast<size_t>(pack)] = top;
    top = pack;
    rooms_.insert(room);
  }

 private:
  OrderedSet rooms_;
  std::vector<int64_t> top_;    // by room
  std::vector<int64_t> below_;  // by pack
};

std::vector<Piece> cut(std::span<const int64_t> lengths, int64_t sequence_length) {
  std::vector<Piece> pieces;
  pieces.reserve(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) {
    CACHALOT_CHECK(lengths[i] >= 0);
    for (int64_t begin = 0; begin < lengths[i]; begin += sequence_length) {
      pieces.push_back({.document = static_cast<int64_t>(i),
                        .begin = begin,
                        .length = std::min(sequence_length, lengths[i] - begin)});
    }
  }
  return pieces;
}
}  // namespace

int64_t Packing::num_tokens() const {
  int64_t total = 0;
  for (const Piece& piece : pieces_) total += piece.length;
  return total;
}

Packing best_fit_packing(std::span<const int64_t> lengths, int64_t sequence_length) {
  CACHALOT_CHECK(sequence_length >= 1);
  std::vector<Piece> pieces = cut(lengths, sequence_length);
  std::stable_sort(pieces.begin(), pieces.end(),
                   [](const Piece& a, const Piece& b) { return a.length > b.length; });

  std::vector<int64_t> pack_of(pieces.size());
  std::vector<int64_t> pack_begin = {0};  // counts first, one place to the right
  OpenPacks open(sequence_length);
  for (size_t i = 0; i < pieces.size(); ++i) {
    int64_t room = 0;
    int64_t pack = open.take_best(pieces[i].length, &room);
    if (pack < 0) {
      pack = static_cast<int64_t>(pack_begin.size()) - 1;
      room = sequence_length;
      pack_begin.push_back(0);
    }
    pack_of[i] = pack;
    ++pack_begin[static_cast<size_t>(pack) + 1];
    if (room > pieces[i].length) open.put(pack, room - pieces[i].length);
  }

  for (size_t i = 1; i < pack_begin.size(); ++i) pack_begin[i] += pack_begin[i - 1];
  std::vector<int64_t> next = pack_begin;
  std::vector<Piece> placed(pieces.size());
  for (size_t i = 0; i < pieces.size(); ++i) {
    placed[static_cast<size_t>(next[static_cast<size_t>(pack_of[i])]++)] = pieces[i];
  }
  return {std::move(placed), std::move(pack_begin)};
}

double padding_ratio(const Packing& packing, int64_t sequence_length) {
  if (packing.num_packs() == 0) return 0;
  const double positions =
      static_cast<double>(packing.num_packs()) * static_cast<double>(sequence_length);
  return 1.0 - static_cast<double>(packing.num_tokens()) / positions;
}

}  // namespace cachalot::data
