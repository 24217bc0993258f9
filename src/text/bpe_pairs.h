// The merge list as a table: the rank of a pair of token ids.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace cachalot::text {

inline constexpr uint32_t kNoRank = UINT32_MAX;

// Spreads the bits of a hash-table key.
inline uint64_t mix_bits(uint64_t x) {
  x *= 0x9E3779B97F4A7C15u;
  return x ^ (x >> 32);
}

// Slots of an open-addressing table for `count` entries: a power of two, at most half full.
inline size_t table_slots(size_t count) { return std::bit_ceil(std::max<size_t>(count * 2, 16)); }

// Ids and ranks fit the entry: ids to kMaxTokenId, ranks below 2^22 - 1.
class PairRanks {
 public:
  PairRanks() : PairRanks(0, 0) {}
  PairRanks(size_t num_pairs, size_t num_ids)
      : slots_(table_slots(num_pairs), kFree), sides_(num_ids) {}

  void insert(uint32_t left, uint32_t right, uint32_t rank) {
    size_t slot = first_slot(key(left, right));
    while (slots_[slot] != kFree) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = key(left, right) << kRankBits | rank;
    sides_[left] |= kIsLeft;
    sides_[right] |= kIsRight;
  }

  uint32_t find(uint32_t left, uint32_t right) const {
    // Most tokens are never merged further; these bits stay in the nearest cache and answer for
    // them.
    if (!(sides_[left] & kIsLeft) || !(sides_[right] & kIsRight)) return kNoRank;
    const uint64_t wanted = key(left, right);
    for (size_t slot = first_slot(wanted); slots_[slot] != kFree;
         slot = (slot + 1) & (slots_.size() - 1)) {
      if (slots_[slot] >> kRankBits == wanted) return slots_[slot] & ((1u << kRankBits) - 1);
    }
    return kNoRank;
  }

 private:
  static constexpr int kIdBits = 21;
  static constexpr int kRankBits = 22;
  static constexpr uint64_t kFree = UINT64_MAX;
  static constexpr uint8_t kIsLeft = 1, kIsRight = 2;
  static uint64_t key(uint32_t left, uint32_t right) { return uint64_t{left} << kIdBits | right; }
  size_t first_slot(uint64_t key) const { return mix_bits(key) & (slots_.size() - 1); }

  std::vector<uint64_t> slots_;
  std::vector<uint8_t> sides_;  // by id: on which sides of a pair it occurs
};

}  // namespace cachalot::text
