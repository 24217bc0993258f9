// Reading what a step needs once, as weights: it is the first to leave L2, so that what the next
// kernels share there (activations, tables, their instructions) stays.
#pragma once

#include <cstdint>

#include "tile/copy.cuh"
#include "tile/order.cuh"

namespace cachalot::tile {

__device__ __forceinline__ uint64_t policy_of_once() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// start_copy with it.
__device__ __forceinline__ void start_copy_once(void* to, const Vector16* from, uint64_t policy) {
  asm volatile(
      "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(smem_address(to)),
      "l"(from), "l"(policy)
      : "memory");
}

// BulkProducer with it.
template <int kMaxStages>
class OnceProducer {
 public:
  __device__ OnceProducer(BulkRing<kMaxStages>& ring, uint8_t* stages, int stage_bytes,
                          int num_stages, int in_flight)
      : ring_(ring),
        stages_(stages),
        stage_bytes_(stage_bytes),
        num_stages_(num_stages),
        in_flight_(in_flight),
        policy_(policy_of_once()) {}

  __device__ __forceinline__ void put(const uint8_t* from, uint32_t num_bytes) {
    if (count_ >= in_flight_) {
      ring_.full[landed_.stage].wait(landed_.phase);
      landed_.advance(num_stages_);
    }
    if (count_ >= num_stages_) ring_.empty[next_.stage].wait(next_.phase ^ 1);
    Mbarrier& full = ring_.full[next_.stage];
    full.arrive_expecting(num_bytes);
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
        "[%1], %2, [%3], %4;" ::"r"(smem_address(stages_ + next_.stage * stage_bytes_)),
        "l"(from), "r"(num_bytes), "r"(smem_address(&full)), "l"(policy_)
        : "memory");
    next_.advance(num_stages_);
    ++count_;
  }

 private:
  BulkRing<kMaxStages>& ring_;
  uint8_t* stages_;
  int stage_bytes_;
  int num_stages_;
  int in_flight_;
  uint64_t policy_;
  RingPlace next_;
  RingPlace landed_;  // what was put in_flight_ puts ago
  int count_ = 0;
};

}  // namespace cachalot::tile
