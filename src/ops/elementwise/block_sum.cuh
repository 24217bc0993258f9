// Sums of one integer a thread over a block.
#pragma once

#include <cstdint>

namespace cachalot::ops {

template <int kThreads>
struct BlockSum {
  int total;
  int before;  // of the threads before this one

  // By all threads. of_warps: shared, kThreads / 32 of them.
  static __device__ BlockSum of(int value, int* of_warps) {
    constexpr int kWarps = kThreads / 32;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int sum = value;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(0xFFFFFFFFu, sum, distance);
      if (lane >= distance) sum += other;
    }
    __syncthreads();  // of_warps is free
    if (lane == 31) of_warps[warp] = sum;
    __syncthreads();
    BlockSum result{0, sum - value};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) result.before += of_warps[w];
      result.total += of_warps[w];
    }
    return result;
  }
};

}  // namespace cachalot::ops
