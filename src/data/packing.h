// Best-fit packing of documents into training sequences.
// Source   reference/training 5.4 (Ding et al., "Fewer truncations improve language modeling",
//          2024): only documents longer than the sequence are cut, into pieces of its length;
//          pieces are placed longest first, each into the open sequence with the least remaining
//          room that still takes it.
// Cost     O(log L) a piece: open sequences are kept by remaining room, and a tree over the room
//          values finds the best one.
// Order    Pure function of the lengths. Equal pieces are placed in the order of their documents;
//          among sequences with equal room the one that came to it last is taken. No worker count
//          enters.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cachalot::data {

// Tokens [begin, begin + length) of a document.
struct Piece {
  int64_t document = 0;
  int64_t begin = 0;
  int64_t length = 0;
  bool operator==(const Piece&) const = default;
};

class Packing {
 public:
  Packing(std::vector<Piece> pieces, std::vector<int64_t> pack_begin)
      : pieces_(std::move(pieces)), pack_begin_(std::move(pack_begin)) {}

  int64_t num_packs() const { return static_cast<int64_t>(pack_begin_.size()) - 1; }
  // In the order they were placed: longest first.
  std::span<const Piece> pack(int64_t pack_idx) const {
    const auto begin = static_cast<size_t>(pack_begin_[static_cast<size_t>(pack_idx)]);
    const auto end = static_cast<size_t>(pack_begin_[static_cast<size_t>(pack_idx) + 1]);
    return std::span(pieces_).subspan(begin, end - begin);
  }
  int64_t num_tokens() const;
  bool operator==(const Packing&) const = default;

 private:
  std::vector<Piece> pieces_;  // pack after pack
  std::vector<int64_t> pack_begin_;
};

// Lengths are at least 0 (empty documents vanish); sequence_length at least 1. Both are caller bugs
// otherwise.
// Memory   About 60 bytes a piece and 8 a token of sequence_length while it runs.
Packing best_fit_packing(std::span<const int64_t> lengths, int64_t sequence_length);

// Share of the packs' positions that hold no token: 1 - tokens / (packs * sequence_length); 0
// without packs.
double padding_ratio(const Packing& packing, int64_t sequence_length);

}  // namespace cachalot::data
