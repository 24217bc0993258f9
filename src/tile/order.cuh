// Who waits for whom: kernels on each other, threads of a block, and threads on bulk copies.
#pragma once

#include <cstdint>

namespace cachalot::tile {

// --- Kernels of one stream, launched with a programmatic edge.

// Returns when all kernels before this one have ended and their writes can be seen.
__device__ __forceinline__ void wait_for_producers() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
// Lets the next kernel start once every block has said so. It takes a place on the SM only where
// there is one.
__device__ __forceinline__ void launch_dependents() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// --- Some of a block's threads. Barrier 0 is __syncthreads.

template <int kBarrier, int kThreads>
__device__ __forceinline__ void sync_threads() {
  static_assert(kBarrier > 0 && kBarrier < 16 && kThreads % 32 == 0);
  asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "n"(kThreads) : "memory");
}

// The same barrier for who does not wait at it.
template <int kBarrier, int kThreads>
__device__ __forceinline__ void arrive_threads() {
  static_assert(kBarrier > 0 && kBarrier < 16 && kThreads % 32 == 0);
  asm volatile("bar.arrive %0, %1;" ::"n"(kBarrier), "n"(kThreads) : "memory");
}

// A value that all threads of a warp have alike, as one that the compiler knows to be so.
__device__ __forceinline__ int uniform(int value) { return __shfl_sync(0xFFFFFFFFu, value, 0); }

// --- Registers, moved from some warpgroups of a block to others: by all four warps of each, where
// the kernel's launch bounds name the threads of a block.

template <int kRegisters>
__device__ __forceinline__ void shrink_registers() {
  static_assert(kRegisters % 8 == 0);
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void grow_registers() {
  static_assert(kRegisters % 8 == 0);
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// --- Shared memory as the copy engine and the tensor cores address it.

__device__ __forceinline__ uint32_t smem_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
// Between ordinary stores to shared memory and their reading by wgmma: by each writing thread,
// before the barrier.
__device__ __forceinline__ void publish_to_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// --- Barriers in shared memory that count arrivals and arrived bytes.

class Mbarrier {
 public:
  __device__ void init(uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_address(this)), "r"(arrivals)
                 : "memory");
  }
  // After the inits, before the block's barrier.
  static __device__ void publish_inits() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __device__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_address(this)) : "memory");
  }
  // Arrives, and lets the phase end only when so many bytes have come too.
  __device__ void arrive_expecting(uint32_t num_bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_address(this)),
                 "r"(num_bytes)
                 : "memory");
  }
  // Waits for the end of the phase of this parity.
  __device__ void wait(uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra ready;\n"
        "bra again;\n"
        "ready:\n"
        "}" ::"r"(smem_address(this)),
        "r"(parity)
        : "memory");
  }
  // A contiguous copy by the copy engine that counts towards this barrier. to, from and num_bytes
  // are multiples of 16.
  __device__ void bulk_copy(void* to, const void* from, uint32_t num_bytes) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(smem_address(to)),
        "l"(from), "r"(num_bytes), "r"(smem_address(this))
        : "memory");
  }
  // The same of a box of a matrix, which `map` (device/cuda/tensor_map.h) describes. to is a
  // multiple of 1024.
  __device__ void copy_box(void* to, const void* map, int column, int row) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];" ::"r"(smem_address(to)),
        "l"(map), "r"(column), "r"(row), "r"(smem_address(this))
        : "memory");
  }

 private:
  uint64_t state_;
};

// --- The blocks of a grid that are all resident at once.

// A counter in global memory that starts at zero and only grows: each wait adds `all` to it, each
// block of those that wait `own`. One thread a block calls it; the others wait at a block barrier.
__device__ __forceinline__ void wait_for_blocks(unsigned long long* counter, uint32_t all,
                                                uint32_t own = 1) {
  unsigned long long ticket;
  asm volatile("atom.add.acq_rel.gpu.global.u64 %0, [%1], %2;"
               : "=l"(ticket)
               : "l"(counter), "l"(uint64_t{own})
               : "memory");
  const unsigned long long target = (ticket / all + 1) * all;
  unsigned long long seen;
  do {
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(seen) : "l"(counter) : "memory");
  } while (seen < target);
}

// True in the one call of `num_blocks` that comes last; what the others wrote before can then be
// seen. The counter starts at zero and is zero again after the last call.
__device__ __forceinline__ bool arrive_last(uint32_t* counter, uint32_t num_blocks) {
  uint32_t ticket;
  asm volatile("atom.inc.acq_rel.gpu.global.u32 %0, [%1], %2;"
               : "=r"(ticket)
               : "l"(counter), "r"(num_blocks - 1)
               : "memory");
  return ticket == num_blocks - 1;
}

}  // namespace cachalot::tile
