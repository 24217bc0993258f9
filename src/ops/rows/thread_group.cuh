// The threads that have a row together: a block, where rows are few, or a warp.
#pragma once

namespace cachalot::ops {

template <int kThreads>
struct BlockGroup {
  static constexpr int kCount = kThreads;
  static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }
  static __device__ __forceinline__ void sync() { __syncthreads(); }
};
struct WarpGroup {
  static constexpr int kCount = 32;
  static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x % 32); }
  static __device__ __forceinline__ void sync() { __syncwarp(); }
};

}  // namespace cachalot::ops
