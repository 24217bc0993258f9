// Words that a block of a cluster stores to another one's shared memory, each of which counts its
// bytes at a barrier there. A barrier's phase must not begin to be sent to before the one before
// has ended.
#pragma once

#include <cstdint>

#include "tile/order.cuh"

namespace cachalot::tile {

__device__ __forceinline__ int rank_in_cluster() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}

// Of the same place of shared memory in block `rank`.
__device__ __forceinline__ uint32_t smem_address_in(const void* here, int rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(smem_address(here)), "r"(rank));
  return there;
}

__device__ __forceinline__ void send(float* to, float value, const Mbarrier& barrier, int rank) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(
                   smem_address_in(to, rank)),
               "r"(__float_as_uint(value)), "r"(smem_address_in(&barrier, rank))
               : "memory");
}
// to: a multiple of 8 bytes.
__device__ __forceinline__ void send_two(float* to, float first, float second,
                                         const Mbarrier& barrier, int rank) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(
          smem_address_in(to, rank)),
      "r"(__float_as_uint(first)), "r"(__float_as_uint(second)),
      "r"(smem_address_in(&barrier, rank))
      : "memory");
}

// Arrives when the calling thread's copies to shared memory so far (start_copy) have come.
__device__ __forceinline__ void arrive_after_copies(const Mbarrier& barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(smem_address(&barrier))
               : "memory");
}

}  // namespace cachalot::tile
