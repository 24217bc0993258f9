// Two warpgroups of a block that take turns at the tensor cores: left alone they fall into step,
// both multiply, then both add up. In turns one's products run while the other adds up. Orders
// nothing else between them.
#pragma once

#include "tile/order.cuh"

namespace cachalot::tile {

// Named barriers kFirstBarrier and the next are theirs.
template <int kFirstBarrier>
class TwoTurns {
 public:
  // By a group's threads. Group 0 has the first turn; both take as many.
  __device__ __forceinline__ explicit TwoTurns(int group) : group_(group) {
    if (group == 1) pass();
  }
  // Before the products are started, and after.
  __device__ __forceinline__ void wait() const {
    group_ == 0 ? sync_threads<kFirstBarrier, kThreads>()
                : sync_threads<kFirstBarrier + 1, kThreads>();
  }
  __device__ __forceinline__ void pass() const {
    group_ == 0 ? arrive_threads<kFirstBarrier + 1, kThreads>()
                : arrive_threads<kFirstBarrier, kThreads>();
  }
  // After the last turn.
  __device__ __forceinline__ void end() const {
    if (group_ == 0) wait();
  }

 private:
  static constexpr int kThreads = 256;
  int group_;
};

}  // namespace cachalot::tile
