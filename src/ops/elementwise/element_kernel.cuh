// Kernels that treat every element of a matrix by itself: a functor with
//   __device__ void operator()(int64_t row, int64_t column) const.
#pragma once

#include <algorithm>

#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "tile/order.cuh"

namespace cachalot::ops {

inline constexpr int kElementThreads = 256;
inline constexpr int kElementsPerThread = 4;

// A block: 256 >> lanes_log2 rows, each with a run of 4 << lanes_log2 columns.
template <typename Element>
__global__ void __launch_bounds__(kElementThreads)
    element_kernel(int64_t rows, int64_t columns, int lanes_log2,
                   const __grid_constant__ Element element) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const int lanes = 1 << lanes_log2;
  const int64_t row =
      (static_cast<int64_t>(blockIdx.x) * kElementThreads + threadIdx.x) >> lanes_log2;
  if (row >= rows) return;
  const int64_t first =
      static_cast<int64_t>(blockIdx.y) * kElementsPerThread * lanes + (threadIdx.x & (lanes - 1));
#pragma unroll
  for (int i = 0; i < kElementsPerThread; ++i) {
    const int64_t column = first + i * lanes;
    if (column < columns) element(row, column);
  }
}

template <typename Element>
void launch_elements(const device::ExecContext& ctx, int64_t rows, int64_t columns,
                     const Element& element) {
  if (rows <= 0 || columns <= 0) return;
  int lanes_log2 = 0;
  while (lanes_log2 < 8 && int64_t{1} << lanes_log2 < columns) ++lanes_log2;
  const int64_t rows_per_block = kElementThreads >> lanes_log2;
  const int64_t columns_per_block = int64_t{kElementsPerThread} << lanes_log2;
  device::cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((rows + rows_per_block - 1) / rows_per_block),
                    static_cast<unsigned>((columns + columns_per_block - 1) / columns_per_block));
  shape.block = kElementThreads;
  device::cuda::launch(device::cuda::stream_of(ctx), shape, element_kernel<Element>, rows, columns,
                       lanes_log2, element);
}

}  // namespace cachalot::ops
