#include "device/cuda/launch.cuh"
#include "tests/cuda/add_norm.h"
#include "tile/convert.cuh"
#include "tile/order.cuh"

namespace cachalot::testing {

constexpr int kRows = 4;  // of a block, a warp each

template <int kValues>  // of a lane
__global__ void __launch_bounds__(kRows * 32)
    add_norm_kernel(const __grid_constant__ AddNormParams p) {
  tile::launch_dependents();
  const int lane = threadIdx.x % 32;
  const int64_t row = int64_t{blockIdx.x} * kRows + threadIdx.x / 32;
  float g[kValues], v[kValues], sum = 0;
#pragma unroll
  for (int i = 0; i < kValues; ++i) g[i] = p.g[i * 32 + lane];
  tile::wait_for_producers();
  if (row >= p.rows) return;
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const int64_t at = row * p.columns + i * 32 + lane;
    v[i] = p.a[at] + p.b[at];
    sum = fmaf(v[i], v[i], sum);
  }
  for (int half = 16; half > 0; half /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, half);
  const float factor = 1.0f / sqrtf(sum / static_cast<float>(p.columns) + p.eps);
#pragma unroll
  for (int i = 0; i < kValues; ++i)
    p.y[row * p.columns + i * 32 + lane] = tile::round_to_bf16(g[i] * (v[i] * factor));
}

Status add_norm(const device::cuda::Stream& stream, const AddNormParams& p) {
  if (p.rows < 0 || p.columns != 512)
    return invalid_argument("add_norm: expected rows of 512, found " + std::to_string(p.columns));
  if (p.rows == 0) return {};
  device::cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((p.rows + kRows - 1) / kRows));
  shape.block = kRows * 32;
  device::cuda::launch(stream, shape, add_norm_kernel<16>, p);
  return {};
}

}  // namespace cachalot::testing
