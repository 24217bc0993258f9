// The pairs of token and expert by expert, in their order: by one block of kThreads threads, each
// warp a run of them.
#pragma once

#include <cstdint>

#include "tile/copy.cuh"

namespace cachalot::ops {

__device__ __forceinline__ int sum_up_to_lane(int value) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_up_sync(0xFFFFFFFFu, value, distance);
    if (lane >= distance) value += other;
  }
  return value;
}

// In shared memory.
class PairRanks {
 public:
  static constexpr int kThreads = 1024;
  static constexpr int kMaxExperts = 512;
  static constexpr int64_t kMaxPairs = 65535;  // counted in 16 bits

  __device__ __forceinline__ void clear(int num_experts) {
    for (int e = threadIdx.x % 32; e < num_experts; e += 32) place_[warp()][e] = 0;
    __syncwarp();
  }
  // Thread e gets the number of expert e's pairs. After clear; a barrier before each_pair.
  __device__ __forceinline__ int count(const int32_t* ids, int num_pairs, int num_experts) {
    each_pair(ids, num_pairs, num_experts, [](int, int, int) {});
    __syncthreads();
    const int e = static_cast<int>(threadIdx.x);
    int count = 0;
    if (e < num_experts) {
      for (int w = 0; w < kWarps; ++w) {
        const int own = place_[w][e];
        place_[w][e] = static_cast<uint16_t>(count);
        count += own;
      }
    }
    return count;
  }
  // Calls with (pair, its expert, its rank among the expert's), once after count.
  template <typename Call>
  __device__ __forceinline__ void each_pair(const int32_t* ids, int num_pairs, int num_experts,
                                            const Call& call) {
    constexpr int kBatch = 8;  // loads under way
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int run = (num_pairs + kThreads - 1) / kThreads;
    for (int first = 0; first < run; first += kBatch) {
      int ids_of_batch[kBatch];
      const auto pair_of = [&](int i) { return (warp() * run + first + i) * 32 + lane; };
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        ids_of_batch[i] = first + i < run && pair_of(i) < num_pairs
                              ? tile::load_shared_state(ids + pair_of(i))
                              : -1;
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (first + i >= run) break;
        const int id = ids_of_batch[i];
        const bool known = id >= 0 && id < num_experts;
        const unsigned same = __match_any_sync(0xFFFFFFFFu, id);
        const int before = __popc(same & ((1u << lane) - 1));
        const int rank = known ? place_[warp()][id] + before : 0;
        __syncwarp();
        if (known && before == 0) place_[warp()][id] += static_cast<uint16_t>(__popc(same));
        __syncwarp();
        if (known) call(pair_of(i), id, rank);
      }
    }
  }

 private:
  static constexpr int kWarps = kThreads / 32;
  static __device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / 32; }

  // [warp][expert]: how many pairs the warp has, then the rank of its next one.
  uint16_t place_[kWarps][kMaxExperts];
};

// The sum of the threads' values before the calling one's, of the first kMaxExperts threads; zero
// in the others. sums: in shared memory, kMaxExperts / 32 of them. By the whole block.
__device__ __forceinline__ int sum_before(int value, int* sums) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int up_to = sum_up_to_lane(value);
  if (threadIdx.x % 32 == 31 && warp < PairRanks::kMaxExperts / 32) sums[warp] = up_to;
  __syncthreads();
  if (warp >= PairRanks::kMaxExperts / 32) return 0;
  int before = up_to - value;
  for (int w = 0; w < warp; ++w) before += sums[w];
  return before;
}

}  // namespace cachalot::ops
