#include "cuda/order.h"
#include "device/cuda/launch.cuh"
#include "tile/order.cuh"

namespace cachalot::bench {
namespace {

constexpr int kThreads = 128;

// A block: the inputs of one run of columns of one token. A thread sums its own inputs for all
// outputs, then the block's threads are added in a tree.
__global__ void __launch_bounds__(kThreads) order_kernel(const __grid_constant__ OrderParams p) {
  __shared__ float sums[kThreads / 32][kOrderOutputs];
  __shared__ bool is_last;
  tile::launch_dependents();
  tile::wait_for_producers();
  const int64_t token = blockIdx.y, run = p.columns / kOrderBlocks, first = blockIdx.x * run;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float own[kOrderOutputs] = {};
  for (int64_t k = first + threadIdx.x; k < first + run; k += kThreads) {
    const float x = p.x[token * p.columns + k];
    const float* w = p.w + k * kOrderOutputs;
#pragma unroll
    for (int i = 0; i < kOrderOutputs; ++i) own[i] = fmaf(x, w[i], own[i]);
  }
#pragma unroll
  for (int i = 0; i < kOrderOutputs; ++i) {
#pragma unroll
    for (int half = 16; half > 0; half /= 2) own[i] += __shfl_xor_sync(0xFFFFFFFFu, own[i], half);
    if (lane == 0) sums[warp][i] = own[i];
  }
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x);
  if (i < kOrderOutputs) {
    const float sum = (sums[0][i] + sums[1][i]) + (sums[2][i] + sums[3][i]);
    if (p.in_order) {
      p.partial[(token * kOrderBlocks + blockIdx.x) * kOrderOutputs + i] = sum;
    } else {
      atomicAdd(p.y + token * kOrderOutputs + i, sum);
    }
  }
  if (!p.in_order) return;
  __syncthreads();
  if (threadIdx.x == 0) is_last = tile::arrive_last(p.count + token, kOrderBlocks);
  __syncthreads();
  if (!is_last || i >= kOrderOutputs) return;
  float total = 0;
  for (int block = 0; block < kOrderBlocks; ++block)
    total += __ldcg(p.partial + (token * kOrderBlocks + block) * kOrderOutputs + i);
  p.y[token * kOrderOutputs + i] = total;
}

}  // namespace

void launch_order_product(const device::cuda::Stream& stream, const OrderParams& p) {
  device::cuda::LaunchShape shape;
  shape.grid = dim3(kOrderBlocks, static_cast<unsigned>(p.tokens));
  shape.block = kThreads;
  device::cuda::launch(stream, shape, order_kernel, p);
}

}  // namespace cachalot::bench
