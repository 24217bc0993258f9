// What lanes of a warp give each other.
#pragma once

#include <cstdint>

namespace cachalot::tile {

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

}  // namespace cachalot::tile
