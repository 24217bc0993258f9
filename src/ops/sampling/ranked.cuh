// The largest of a row's values in order, ties to the lowest id, by one block: for device code of
// ops/sampling.
#pragma once

#include <cstdint>

namespace cachalot::ops {

inline constexpr int kRankedThreads = 1024;
inline constexpr int kRankedMost = 2048;  // that are sorted at a time
inline constexpr int kRankedDigits = 256;

// Larger values have larger keys; -0 and 0 have one. Not for NaN.
__device__ __forceinline__ uint64_t ranked_key(double value) {
  const auto bits = static_cast<uint64_t>(__double_as_longlong(value + 0.0));
  return bits >> 63 != 0 ? ~bits : bits | uint64_t{1} << 63;
}

// The values down to one of them, itself among them.
struct Cut {
  uint64_t key;
  int32_t id;
  __device__ bool takes(uint64_t other_key, int32_t other_id) const {
    return other_key > key || (other_key == key && other_id <= id);
  }
  static __device__ Cut none() { return {~uint64_t{0}, -1}; }
};

struct RankedShared {
  uint64_t keys[kRankedMost];
  int32_t ids[kRankedMost];
  int counts[kRankedDigits];
  uint64_t prefix;
  int needed;  // of those with the prefix
  int equal;   // have it
  int count;
};

// How many of the ids are counted; to every thread.
template <typename IsCounted>
__device__ int count_ids(int32_t n, const IsCounted& is_counted, RankedShared& s) {
  int count = 0;
  for (int32_t id = threadIdx.x; id < n; id += kRankedThreads) count += is_counted(id) ? 1 : 0;
  __syncthreads();  // s.count may have been read
  if (threadIdx.x == 0) s.count = 0;
  __syncthreads();
  if (count > 0) atomicAdd(&s.count, count);
  __syncthreads();
  return s.count;
}

// Where the first k of those that are in end: key by key from the highest digit, then id by id.
// rank_of(id), is_in(id, key); k > 0.
template <typename RankOf, typename IsIn>
__device__ Cut select_first(int32_t n, int k, const RankOf& rank_of, const IsIn& is_in,
                            RankedShared& s) {
  if (count_ids(
          n, [&](int32_t id) { return is_in(id, rank_of(id)); }, s) <= k)
    return {0, 0x7FFFFFFF};
  if (threadIdx.x == 0) {
    s.prefix = 0;
    s.needed = k;
  }
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int digit = threadIdx.x; digit < kRankedDigits; digit += kRankedThreads)
      s.counts[digit] = 0;
    __syncthreads();
    // All lanes take every turn: they count together.
    for (int32_t first = 0; first < n; first += kRankedThreads) {
      const int32_t id = first + static_cast<int32_t>(threadIdx.x);
      int digit = kRankedDigits;
      if (id < n) {
        const uint64_t key = rank_of(id);
        const bool has_prefix = shift == 56 || key >> (shift + 8) == s.prefix >> (shift + 8);
        if (has_prefix && is_in(id, key)) digit = static_cast<int>(key >> shift & 255);
      }
      const unsigned same = __match_any_sync(0xFFFFFFFFu, digit);
      const bool is_first = (same & ((1u << (threadIdx.x % 32)) - 1)) == 0;
      if (is_first && digit < kRankedDigits) atomicAdd(&s.counts[digit], __popc(same));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = kRankedDigits - 1;
      for (; s.counts[digit] < s.needed; --digit) s.needed -= s.counts[digit];
      s.prefix |= static_cast<uint64_t>(digit) << shift;
      s.equal = s.counts[digit];
    }
    __syncthreads();
  }
  const uint64_t last = s.prefix;
  const int needed = s.needed;
  int32_t low = 0, high = n - 1;  // of equals, the lowest ids
  if (s.equal == needed) low = high;
  while (low < high) {
    const int32_t middle = low + (high - low) / 2;
    const auto is_counted = [&](int32_t id) {
      return id <= middle && rank_of(id) == last && is_in(id, last);
    };
    if (count_ids(n, is_counted, s) >= needed) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return {last, low};
}

// The first k (at most kRankedMost) of those that are in, sorted, to s.keys and s.ids; returns
// their number.
template <typename RankOf, typename IsIn>
__device__ int take_first(int32_t n, int k, const RankOf& rank_of, const IsIn& is_in,
                          RankedShared& s) {
  const Cut cut = select_first(n, k, rank_of, is_in, s);
  __syncthreads();
  if (threadIdx.x == 0) s.count = 0;
  __syncthreads();
  for (int32_t id = threadIdx.x; id < n; id += kRankedThreads) {
    const uint64_t key = rank_of(id);
    if (!is_in(id, key) || !cut.takes(key, id)) continue;
    const int place = atomicAdd(&s.count, 1);
    s.keys[place] = key;
    s.ids[place] = id;
  }
  __syncthreads();
  const int count = s.count;
  int size = 1;
  while (size < count) size *= 2;
  for (int i = count + static_cast<int>(threadIdx.x); i < size; i += kRankedThreads) {
    s.keys[i] = 0;
    s.ids[i] = 0x7FFFFFFF;
  }
  __syncthreads();
  // Bitonic: runs of `run` in alternating order become runs of twice that.
  for (int run = 2; run <= size; run *= 2) {
    for (int distance = run / 2; distance > 0; distance /= 2) {
      for (int i = threadIdx.x; i < size; i += kRankedThreads) {
        const int j = i ^ distance;
        if (j < i) continue;
        const bool in_order =
            s.keys[i] > s.keys[j] || (s.keys[i] == s.keys[j] && s.ids[i] < s.ids[j]);
        if (in_order == ((i & run) == 0)) continue;
        const uint64_t key = s.keys[i];
        const int32_t id = s.ids[i];
        s.keys[i] = s.keys[j];
        s.ids[i] = s.ids[j];
        s.keys[j] = key;
        s.ids[j] = id;
      }
      __syncthreads();
    }
  }
  return count;
}

}  // namespace cachalot::ops
