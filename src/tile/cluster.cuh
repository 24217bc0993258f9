// Pairs of blocks on neighbouring multiprocessors, which read each other's shared memory barriers
// and may be sent the same bytes at once: those then leave L2 once. A kernel of pairs is declared
// with __cluster_dims__(2, 1, 1); blocks 2 i and 2 i + 1 are a pair, ranks 0 and 1.
#pragma once

#include <cstdint>

#include "tile/order.cuh"

namespace cachalot::tile {

inline constexpr int kPair = 2;

__device__ __forceinline__ int rank_in_pair() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
// All threads of both blocks, whole warps: after barriers are made, and before a block ends that
// the other may still send to.
__device__ __forceinline__ void sync_pair() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}
// Arrives at the barrier that lies in block `rank` where `barrier` lies here. Orders the caller's
// reads, not its writes to memory: those a barrier of the cluster would have to publish.
__device__ __forceinline__ void arrive_in_pair(const Mbarrier& barrier, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}" ::"r"(smem_address(&barrier)),
      "r"(rank)
      : "memory");
}
// Mbarrier::bulk_copy to the same place in both blocks, each of which counts the bytes at its own
// barrier.
__device__ __forceinline__ void copy_to_pair(const Mbarrier& barrier, void* to, const void* from,
                                             uint32_t num_bytes) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1], %2, [%3], %4;" ::"r"(smem_address(to)),
      "l"(from), "r"(num_bytes), "r"(smem_address(&barrier)), "h"(static_cast<uint16_t>(3))
      : "memory");
}

// --- Clusters of any size.

// All threads of all blocks, whole warps: what was written to shared memory before one has arrived
// can be seen after the wait.
__device__ __forceinline__ void arrive_in_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void wait_in_cluster() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// The same place of shared memory in block `rank`: for loads, stores and atomics between a wait
// after that block has begun and an arrival before it ends.
template <typename T>
__device__ __forceinline__ T* in_block_of_cluster(T* here, int rank) {
  uint64_t there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(here), "r"(rank));
  return reinterpret_cast<T*>(there);
}

}  // namespace cachalot::tile
