// What lanes of a warp give each other.
#pragma once

#include <cstdint>

#include "tile/order.cuh"

namespace cachalot::tile {

// threadIdx.x, read where it stands: what is worked out from it takes no register before.
__device__ __forceinline__ int thread_again() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// Of four lanes beside each other lane t's word i becomes lane i's word t. By the whole warp.
__device__ __forceinline__ void transpose_among_four(uint32_t (&words)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int distance = 1; distance <= 2; distance *= 2) {
    const bool upper = (lane & distance) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & distance) != 0) continue;
      uint32_t& low = words[i];
      uint32_t& high = words[i + distance];
      const uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, upper ? low : high, distance);
      (upper ? low : high) = other;
    }
  }
}

// Matrices of 8 x 8 values of 16 bits, of which lane 4 g + t holds those of row g, columns 2 t and
// 2 t + 1 (D of tile/mma.cuh, rounded), to shared memory, where a column's eight lie together: lane
// 8 m + c names where column c of matrix m goes, aligned to 16 bytes. By the whole warp.
__device__ __forceinline__ void store_matrices_by_columns(void* to, uint32_t first,
                                                          uint32_t second) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(smem_address(to)),
      "r"(first), "r"(second)
      : "memory");
}
__device__ __forceinline__ void store_matrices_by_columns(void* to, uint32_t first, uint32_t second,
                                                          uint32_t third, uint32_t fourth) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   smem_address(to)),
               "r"(first), "r"(second), "r"(third), "r"(fourth)
               : "memory");
}

}  // namespace cachalot::tile
