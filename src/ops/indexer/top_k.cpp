#include "ops/indexer/top_k.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "ops/indexer/index_select.h"

namespace cachalot::ops {
namespace {

// Finds the digit of the k-th largest among the keys whose bits above `shift + width` equal
// `prefix`; k becomes the rank within that digit.
uint32_t select_digit(const float* scores, int64_t n, uint32_t prefix, int shift, int width,
                      int64_t& k) {
  constexpr int kMaxDigits = 1 << 11;
  int32_t counts[kMaxDigits] = {};
  const uint32_t digit_mask = (1u << width) - 1;
  const bool filter = shift + width < 32;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t key = ordered_key(scores[i]);
    if (filter && (key >> (shift + width)) != prefix) continue;
    ++counts[(key >> shift) & digit_mask];
  }
  uint32_t digit = digit_mask;
  while (counts[digit] < k) k -= counts[digit--];
  return digit;
}

constexpr int64_t kFewScores = 512;

// Bit by bit, the largest number that k keys reach; once k keys alone reach one, the least of them
// is the key. As signed numbers in the same order, which compilers make vectors of.
KthKey kth_largest_of_few(const float* scores, int64_t n, int64_t k) {
  constexpr uint32_t kSign = 0x80000000u;
  int32_t keys[kFewScores];
  for (int64_t i = 0; i < n; ++i) keys[i] = static_cast<int32_t>(ordered_key(scores[i]) ^ kSign);
  const auto num_at_least = [&](uint32_t bound) {
    const auto least = static_cast<int32_t>(bound ^ kSign);
    int32_t count = 0;
    for (int64_t i = 0; i < n; ++i) count += keys[i] >= least ? 1 : 0;
    return count;
  };
  uint32_t key = 0;
  int64_t reached = n;
  for (uint32_t bit = kSign; bit != 0 && reached != k; bit >>= 1) {
    const int64_t count = num_at_least(key | bit);
    if (count < k) continue;
    key |= bit;
    reached = count;
  }
  int32_t least = std::numeric_limits<int32_t>::max();
  for (int64_t i = 0; i < n; ++i) {
    const bool is_reached = keys[i] >= static_cast<int32_t>(key ^ kSign);
    least = std::min(least, is_reached ? keys[i] : std::numeric_limits<int32_t>::max());
  }
  int32_t num_larger = 0;
  for (int64_t i = 0; i < n; ++i) num_larger += keys[i] > least ? 1 : 0;
  return {static_cast<uint32_t>(least) ^ kSign, num_larger};
}

}  // namespace

KthKey kth_largest_key(const float* scores, int64_t n, int64_t k) {
  CACHALOT_DCHECK(1 <= k && k <= n);
  if (n <= kFewScores) return kth_largest_of_few(scores, n, k);
  int64_t rank = k;
  uint32_t key = select_digit(scores, n, 0, 21, 11, rank);
  key = key << 11 | select_digit(scores, n, key, 10, 11, rank);
  key = key << 10 | select_digit(scores, n, key, 0, 10, rank);
  return {key, k - rank};
}

void TopKStream::cut() {
  if (size_ <= k_) return;
  const KthKey kth = kth_largest_key(scores_, size_, k_);
  int64_t num_equal = k_ - kth.num_larger;
  int64_t kept = 0;
  for (int64_t i = 0; i < size_; ++i) {
    const uint32_t key = ordered_key(scores_[i]);
    if (key < kth.key || (key == kth.key && num_equal-- <= 0)) continue;
    if (key == kth.key) threshold_ = scores_[i];
    scores_[kept] = scores_[i];
    positions_[kept] = positions_[i];
    ++kept;
  }
  size_ = kept;
  all_ = kth.key == kNanKey;  // any number beats a NaN, which compares with nothing
}

int64_t TopKStream::finish(int32_t* out) {
  cut();
  std::copy_n(positions_, size_, out);
  return size_;
}

int64_t top_k_positions(device::Isa isa, const float* scores, int64_t n, int64_t k, int32_t* out) {
  CACHALOT_CHECK(n >= 0 && k >= 0);
  k = std::min(n, k);
  if (k == 0) return 0;
  if (isa == device::Isa::reference) {  // the definition: sort, take k
    std::vector<int32_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int32_t a, int32_t b) {
      const uint32_t key_a = ordered_key(scores[a]);
      const uint32_t key_b = ordered_key(scores[b]);
      return key_a != key_b ? key_a > key_b : a < b;
    });
    std::sort(order.begin(), order.begin() + k);
    std::copy_n(order.begin(), k, out);
    return k;
  }
  const KthKey kth = kth_largest_key(scores, n, k);
  int64_t num_equal = k - kth.num_larger;
  int64_t count = 0;
  for (int64_t i = 0; count < k; ++i) {
    const uint32_t key = ordered_key(scores[i]);
    if (key < kth.key || (key == kth.key && num_equal-- <= 0)) continue;
    out[count++] = static_cast<int32_t>(i);
  }
  return k;
}

}  // namespace cachalot::ops
