// Exact selection of the k largest scores; ties go to the earliest.
//
// Scores are compared through integer keys, in the order of the scores: NaN below -inf, -0 equal to
// 0.
#pragma once

#include <bit>
#include <cstdint>

namespace cachalot::ops {

inline constexpr uint32_t kNanKey = 0;

inline uint32_t ordered_key(float score) {
  if (score != score) return kNanKey;
  const uint32_t bits = std::bit_cast<uint32_t>(score + 0.0f);  // -0 becomes 0
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

// The k-th largest key of n scores, 1 <= k <= n, and how many of the k have a larger one. Of more
// than some hundreds by three counting passes over 11, 11 and 10 bits: O(n) whatever the scores
// are, no scratch but a fixed table, which of fewer would take longer than they do.
struct KthKey {
  uint32_t key;
  int64_t num_larger;
};
KthKey kth_largest_key(const float* scores, int64_t n, int64_t k);

// The k best of scores that arrive in tiles of 64, in scratch that does not grow: candidates above
// a running threshold are kept, and cut back to the best k when the room is full. Needs room for
// capacity(k) scores and positions. Threads: one owner.
class TopKStream {
 public:
  static int64_t capacity(int64_t k) { return k + (k > 128 ? k : 128) + 64; }

  TopKStream(int64_t k, float* scores, int32_t* positions)
      : k_(k), scores_(scores), positions_(positions) {}

  // A score at most this is not among the best; where all() holds there is no threshold yet.
  float threshold() const { return threshold_; }
  bool all() const { return all_; }

  // Takes the scores whose bit is set (bit i: position base + i); others were at most threshold().
  // base ascends.
  void offer(const float* scores, uint64_t mask, int64_t base) {
    while (mask != 0) {
      const int i = std::countr_zero(mask);
      mask &= mask - 1;
      scores_[size_] = scores[i];
      positions_[size_] = static_cast<int32_t>(base + i);
      ++size_;
    }
    if (size_ > capacity(k_) - 64) cut();
  }

  // Writes the positions of the best min(k, offered), ascending; returns their number.
  int64_t finish(int32_t* out);
  const float* scores() const { return scores_; }  // after finish(): of those positions

 private:
  void cut();

  int64_t k_;
  float* scores_;
  int32_t* positions_;
  int64_t size_ = 0;
  float threshold_ = 0;
  bool all_ = true;
};

}  // namespace cachalot::ops
