// Moving bytes. Widths and alignments are types here: a copy of 16 bytes takes pointers to
// Vector16.
#pragma once

#include <cstdint>

#include "tile/order.cuh"

namespace cachalot::tile {

struct alignas(16) Vector16 {
  uint32_t word[4];
};
struct alignas(8) Vector8 {
  uint32_t word[2];
};

// What no kernel writes while it is read, used once: past L1.
__device__ __forceinline__ Vector16 load_once(const Vector16* from) {
  Vector16 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(from));
  return v;
}

// What no kernel writes while it is read, used by several blocks of an SM.
__device__ __forceinline__ Vector16 load_constant(const Vector16* from) {
  Vector16 v;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(from));
  return v;
}

// What another kernel or block may just have written: from L2.
__device__ __forceinline__ Vector16 load_shared_state(const Vector16* from) {
  Vector16 v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(from)
               : "memory");
  return v;
}
__device__ __forceinline__ Vector8 load_shared_state(const Vector8* from) {
  Vector8 v;
  asm volatile("ld.global.cg.v2.u32 {%0, %1}, [%2];"
               : "=r"(v.word[0]), "=r"(v.word[1])
               : "l"(from)
               : "memory");
  return v;
}
template <typename T>
__device__ __forceinline__ T load_shared_state(const T* from) {
  static_assert(sizeof(T) == 4, "4, 8 or 16 bytes");
  uint32_t bits;
  asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(bits) : "l"(from) : "memory");
  T value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

__device__ __forceinline__ uint16_t load_shared_state(const uint16_t* from) {
  uint16_t bits;
  asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(bits) : "l"(from) : "memory");
  return bits;
}

__device__ __forceinline__ uint8_t load_shared_state(const uint8_t* from) {
  uint32_t byte;
  asm volatile("ld.global.cg.u8 %0, [%1];" : "=r"(byte) : "l"(from) : "memory");
  return static_cast<uint8_t>(byte);
}

// To L2, of global memory, the line that holds `from`.
inline constexpr int kLineBytes = 128;
__device__ __forceinline__ void prefetch_line(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

// 16 bytes to shared memory without passing through registers; under way until wait_copies.
__device__ __forceinline__ void start_copy(void* to, const Vector16* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(smem_address(to)), "l"(from)
               : "memory");
}
// The same, or zeros.
__device__ __forceinline__ void start_copy_or_zero(void* to, const Vector16* from, bool copy) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_address(to)), "l"(from),
               "r"(copy ? 16 : 0)
               : "memory");
}
// The same of 8 or 4 bytes.
__device__ __forceinline__ void start_copy(void* to, const Vector8* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(smem_address(to)), "l"(from)
               : "memory");
}
__device__ __forceinline__ void start_copy(void* to, const int32_t* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(smem_address(to)), "l"(from)
               : "memory");
}
// Ends a group of the calling thread's copies; waits until at most kPending later groups are under
// way.
__device__ __forceinline__ void end_copy_group() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_copy_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
// For the calling thread's copies; a block barrier makes them seen by all.
__device__ __forceinline__ void wait_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// A ring of stages in shared memory, filled by one thread with bulk copies and emptied by
// kConsumerWarps warps. At most `in_flight` copies are under way: the chip serves all outstanding
// ones alike, so a deep ring would make its first stage late.
template <int kMaxStages>
struct BulkRing {
  Mbarrier full[kMaxStages];
  Mbarrier empty[kMaxStages];

  // By one thread, before the block's barrier. Every lane that reads a stage gives it back itself:
  // a lane that did so for its warp would need the others' reads ordered before its own arrival,
  // which the compiler does by keeping the warp together, unseen by who looks for races.
  __device__ void init(int num_stages, int num_consumer_warps) {
    for (int i = 0; i < num_stages; ++i) {
      full[i].init(1);
      empty[i].init(static_cast<uint32_t>(num_consumer_warps * 32));
    }
    Mbarrier::publish_inits();
  }
};

struct RingPlace {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void advance(int num_stages) {
    if (++stage == num_stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

template <int kMaxStages>
class BulkProducer {
 public:
  __device__ BulkProducer(BulkRing<kMaxStages>& ring, uint8_t* stages, int stage_bytes,
                          int num_stages, int in_flight)
      : ring_(ring),
        stages_(stages),
        stage_bytes_(stage_bytes),
        num_stages_(num_stages),
        in_flight_(in_flight) {}

  __device__ __forceinline__ void put(const uint8_t* from, uint32_t num_bytes) {
    if (count_ >= in_flight_) {
      ring_.full[landed_.stage].wait(landed_.phase);
      landed_.advance(num_stages_);
    }
    if (count_ >= num_stages_) ring_.empty[next_.stage].wait(next_.phase ^ 1);
    ring_.full[next_.stage].arrive_expecting(num_bytes);
    ring_.full[next_.stage].bulk_copy(stages_ + next_.stage * stage_bytes_, from, num_bytes);
    next_.advance(num_stages_);
    ++count_;
  }

 private:
  BulkRing<kMaxStages>& ring_;
  uint8_t* stages_;
  int stage_bytes_;
  int num_stages_;
  int in_flight_;
  RingPlace next_;
  RingPlace landed_;  // what was put in_flight_ puts ago
  int count_ = 0;
};

// The same ring as one consumer warp sees it.
template <int kMaxStages>
class BulkConsumer {
 public:
  __device__ BulkConsumer(BulkRing<kMaxStages>& ring, const uint8_t* stages, int stage_bytes,
                          int num_stages)
      : ring_(ring), stages_(stages), stage_bytes_(stage_bytes), num_stages_(num_stages) {}

  __device__ __forceinline__ const uint8_t* wait() {
    ring_.full[place_.stage].wait(place_.phase);
    return stages_ + place_.stage * stage_bytes_;
  }
  // After the lane's last read of the stage.
  __device__ __forceinline__ void release() {
    ring_.empty[place_.stage].arrive();
    skip();
  }
  // Leaves a stage to other consumers.
  __device__ __forceinline__ void skip() { place_.advance(num_stages_); }

 private:
  BulkRing<kMaxStages>& ring_;
  const uint8_t* stages_;
  int stage_bytes_;
  int num_stages_;
  RingPlace place_;
};

}  // namespace cachalot::tile
