#include <cmath>

#include "ops/elementwise/element_kernel.cuh"
#include "ops/on_gpu.h"
#include "ops/quant/act_quant.cuh"
#include "tile/scalar.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// The rows of RowsParams in a kernel, where its host functions cannot be called.
__device__ __forceinline__ float* row_of(const RowsParams& p, int64_t row) {
  return p.x + row * p.row_stride;
}
__device__ __forceinline__ const float* input_of(const RowsParams& p, int64_t row) {
  if (p.from == nullptr) return row_of(p, row);
  return p.from + (p.from_rows == nullptr ? row : p.from_rows[row]) * p.from_stride;
}

// A warp: a run of `block` values, one scale.
enum class Simulated { fp8, fp4 };
template <Simulated kFormat>
__global__ void __launch_bounds__(kThreads)
    simulate_kernel(const __grid_constant__ RowsParams p, int64_t block, int64_t runs,
                    float amax_floor) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const int lane = threadIdx.x % 32;
  const int64_t task = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t row = task / runs;
  if (row >= p.rows) return;
  const int64_t begin = task % runs * block;
  const int64_t n = min(block, p.columns - begin);
  const float* from = input_of(p, row) + begin;
  float* to = row_of(p, row) + begin;
  float largest = 0;
  for (int64_t i = lane; i < n; i += 32) largest = fmaxf(largest, fabsf(from[i]));
  largest = warp_max_magnitude(largest);
  const float scale = scale_of(kFormat == Simulated::fp8 ? fp8_exponent(largest, amax_floor)
                                                         : fp4_exponent(largest));
  for (int64_t i = lane; i < n; i += 32) {
    const float x = from[i];
    if constexpr (kFormat == Simulated::fp8) {
      to[i] = tile::e4m3_value(e4m3_code(x / scale)) * scale;
    } else {
      // e2m1 has no code for NaN.
      to[i] = x != x ? x : tile::e2m1_value(tile::e2m1_from_float(x / scale)) * scale;
    }
  }
}

template <Simulated kFormat>
void launch_simulate(device::ExecContext& ctx, const RowsParams& p, int64_t block,
                     float amax_floor) {
  const int64_t runs = (p.columns + block - 1) / block;
  if (p.rows == 0 || runs == 0) return;
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((p.rows * runs + kWarps - 1) / kWarps));
  shape.block = kThreads;
  cuda::launch(cuda::stream_of(ctx), shape, simulate_kernel<kFormat>, p, block, runs, amax_floor);
}

// A block: one row, in shared memory.
__global__ void __launch_bounds__(kThreads)
    hadamard_kernel(const __grid_constant__ RowsParams p, float factor, bool round_bf16) {
  extern __shared__ float values[];
  tile::launch_dependents();
  tile::wait_for_producers();
  float* x = row_of(p, blockIdx.x);
  const int n = static_cast<int>(p.columns);
  for (int i = threadIdx.x; i < n; i += blockDim.x) values[i] = x[i];
  for (int stride = 1; stride < n; stride *= 2) {
    __syncthreads();
    for (int i = threadIdx.x; i < n / 2; i += blockDim.x) {
      const int first = (i / stride) * 2 * stride + i % stride;
      const float u = values[first], v = values[first + stride];
      values[first] = u + v;
      values[first + stride] = u - v;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const float value = values[i] * factor;
    x[i] = round_bf16 ? tile::round_to_bf16(value) : value;
  }
}

struct RoundBf16 {
  RowsParams p;
  __device__ void operator()(int64_t row, int64_t column) const {
    row_of(p, row)[column] = tile::round_to_bf16(input_of(p, row)[column]);
  }
};

}  // namespace

void simulate_fp8_cuda(device::ExecContext& ctx, const RowsParams& p, int64_t block,
                       float amax_floor) {
  launch_simulate<Simulated::fp8>(ctx, p, block, amax_floor);
}

void simulate_fp4_cuda(device::ExecContext& ctx, const RowsParams& p) {
  launch_simulate<Simulated::fp4>(ctx, p, 32, 0);
}

// A row lies in shared memory.
void hadamard_cuda(device::ExecContext& ctx, const RowsParams& p, bool round_bf16) {
  CACHALOT_CHECK(p.columns <= 8192);
  if (p.rows == 0) return;
  const auto factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(p.columns)));
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(p.rows));
  shape.block = static_cast<int>(std::clamp<int64_t>(p.columns / 2, 32, kThreads));
  shape.smem_bytes = p.columns * 4;
  cuda::launch(cuda::stream_of(ctx), shape, hadamard_kernel, p, factor, round_bf16);
}

void round_bf16_cuda(device::ExecContext& ctx, const RowsParams& p) {
  launch_elements(ctx, p.rows, p.columns, RoundBf16{p});
}

}  // namespace cachalot::ops
