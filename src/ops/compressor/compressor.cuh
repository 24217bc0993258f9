// Pooling into an entry (ops/compressor/compressor.h) on the GPU, a channel a thread.
#pragma once

#include <cstdint>

#include "ops/elementwise/exp.cuh"

namespace cachalot::ops {

// The positions whose slots an entry pools.
struct EntrySlots {
  int64_t own;    // the first of its own
  int64_t start;  // of all
  int count;

  __device__ __forceinline__ EntrySlots(int64_t entry, int64_t ratio, bool overlap)
      : own(entry * ratio),
        start(overlap ? max(int64_t{0}, own - ratio) : own),
        count(static_cast<int>(own + ratio - start)) {}
};

// One channel: s(i) and k(i) are of slot i of `count`.
template <typename S, typename K>
__device__ __forceinline__ float pooled(int count, const S& s, const K& k) {
  float largest = __uint_as_float(0xFF800000u);
#pragma unroll 4
  for (int i = 0; i < count; ++i) {
    const float score = s(i);
    largest = score > largest ? score : largest;
  }
  float sum = 0, weighted = 0;
#pragma unroll 4
  for (int i = 0; i < count; ++i) {
    const float weight = exp_f32_device(s(i) - largest);
    sum += weight;
    weighted = fmaf(weight, k(i), weighted);
  }
  return weighted / sum;
}

}  // namespace cachalot::ops
