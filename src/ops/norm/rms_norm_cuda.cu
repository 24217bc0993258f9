#include <algorithm>

#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/norm/rms_norm.cuh"
#include "ops/norm/rms_norm.h"
#include "ops/on_gpu.h"
#include "tile/order.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kThreads = 256;
constexpr int kChains = 16;
constexpr int kLaneThreads = 64;              // of a block whose rows lie in registers
constexpr int kMaxRows = kThreads / kChains;  // of a block: a row's chains are half a warp
constexpr int kTileFloats = 8192;
constexpr int kBatch = 16;  // values of a thread that are loaded before the first is used

// How the rows of a block are cut: `chunk` columns at a time, a power of two.
struct Cut {
  int rows;
  int chunk_log2;
};

// A block: cut.rows rows. factor_only: y is [rows], the factors.
template <Norm kNorm>
__global__ void __launch_bounds__(kThreads)
    rms_norm_kernel(const __grid_constant__ RmsNormParams p, Cut cut) {
  __shared__ float cells[kTileFloats + kMaxRows * kChains];
  __shared__ float factors[kMaxRows];
  tile::launch_dependents();
  tile::wait_for_producers();
  const int chunk = 1 << cut.chunk_log2;
  const int tile_stride = chunk + kChains;  // the half warps of a warp read other banks
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * cut.rows;
  const int num_rows = static_cast<int>(min(static_cast<int64_t>(cut.rows), p.rows - first_row));
  const int own_row = static_cast<int>(threadIdx.x) / kChains;
  float sum = 0;
  for (int64_t begin = 0; begin < p.columns; begin += chunk) {
    const int count = static_cast<int>(min(static_cast<int64_t>(chunk), p.columns - begin));
    if (begin > 0) __syncthreads();
    // Many loads under way: their latency is what a few rows wait for.
    for (int first = threadIdx.x; first < num_rows << cut.chunk_log2; first += kThreads * kBatch) {
      float x[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int row = (first + j * kThreads) >> cut.chunk_log2;
        const int column = (first + j * kThreads) & (chunk - 1);
        x[j] = row < num_rows && column < count
                   ? p.x[(first_row + row) * p.x_stride + begin + column]
                   : 0.0f;
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int row = (first + j * kThreads) >> cut.chunk_log2;
        const int column = (first + j * kThreads) & (chunk - 1);
        if (row < num_rows && column < count) cells[row * tile_stride + column] = x[j];
      }
    }
    __syncthreads();
    if (own_row < num_rows) {
      const float* own = cells + own_row * tile_stride;
      int column = threadIdx.x % kChains;
      for (; column + (kBatch - 1) * kChains < count; column += kBatch * kChains) {
        float x[kBatch];
#pragma unroll
        for (int j = 0; j < kBatch; ++j) x[j] = own[column + j * kChains];
#pragma unroll
        for (int j = 0; j < kBatch; ++j) sum = add_square<kNorm>(sum, x[j]);
      }
      for (; column < count; column += kChains) sum = add_square<kNorm>(sum, own[column]);
    }
  }
  sum = fold_chains(sum);
  if (threadIdx.x % kChains == 0 && own_row < num_rows) {
    const float factor = norm_factor<kNorm>(sum, p.columns, p.eps);
    factors[own_row] = factor;
    if constexpr (kNorm == Norm::factor_only) p.y[first_row + own_row] = factor;
  }
  if constexpr (kNorm == Norm::factor_only) return;
  __syncthreads();
  const bool whole = p.columns <= chunk;
  for (int64_t begin = 0; begin < p.columns; begin += chunk) {
#pragma unroll 4
    for (int i = threadIdx.x; i < num_rows << cut.chunk_log2; i += kThreads) {
      const int row = i >> cut.chunk_log2;
      const int64_t column = begin + (i & (chunk - 1));
      if (column >= p.columns) continue;
      const float x =
          whole ? cells[row * tile_stride + column] : p.x[(first_row + row) * p.x_stride + column];
      p.y[(first_row + row) * p.y_stride + column] =
          weigh<kNorm>(x * factors[row], p.g != nullptr ? p.g + column : nullptr, p.round_y);
    }
  }
}

// A row of 16 kValues columns in half a warp: lane c has the values of chain c.
template <Norm kNorm, int kValues>
__global__ void __launch_bounds__(kLaneThreads)
    row_norm_kernel(const __grid_constant__ RmsNormParams p) {
  tile::launch_dependents();
  const int lane = threadIdx.x % kChains;
  const int64_t own =
      static_cast<int64_t>(blockIdx.x) * (kLaneThreads / kChains) + threadIdx.x / kChains;
  const int64_t row = min(own, p.rows - 1);  // all lanes take part in the exchanges
  float g[kValues];
#pragma unroll
  for (int i = 0; i < kValues; ++i) g[i] = p.g != nullptr ? __ldg(p.g + i * kChains + lane) : 1.0f;
  tile::wait_for_producers();
  float v[kValues];
#pragma unroll
  for (int i = 0; i < kValues; ++i) v[i] = p.x[row * p.x_stride + i * kChains + lane];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kValues; ++i) sum = add_square<kNorm>(sum, v[i]);
  sum = __shfl_sync(0xFFFFFFFFu, fold_chains(sum), 0, kChains);
  const float factor = norm_factor<kNorm>(sum, p.columns, p.eps);
  if (own >= p.rows) return;
#pragma unroll
  for (int i = 0; i < kValues; ++i)
    p.y[row * p.y_stride + i * kChains + lane] =
        weigh<kNorm>(v[i] * factor, p.g != nullptr, g[i], p.round_y);
}

template <Norm kNorm, int kValues>
void launch_row_norm(device::ExecContext& ctx, const RmsNormParams& p) {
  cuda::LaunchShape shape;
  constexpr int64_t kRows = kLaneThreads / kChains;
  shape.grid = dim3(static_cast<unsigned>((p.rows + kRows - 1) / kRows));
  shape.block = kLaneThreads;
  cuda::launch(cuda::stream_of(ctx), shape, row_norm_kernel<kNorm, kValues>, p);
}

template <Norm kNorm>
void launch_norm(device::ExecContext& ctx, RmsNormParams p) {
  if (p.g != nullptr) p.g = ctx.gpu->on_device(p.g);
  if constexpr (kNorm != Norm::factor_only) {
    switch (p.columns) {
      case 128: return launch_row_norm<kNorm, 8>(ctx, p);
      case 512: return launch_row_norm<kNorm, 32>(ctx, p);
      case 1024: return launch_row_norm<kNorm, 64>(ctx, p);
      case 1536: return launch_row_norm<kNorm, 96>(ctx, p);
      default: break;
    }
  }
  Cut cut{1, 4};
  while (int64_t{1} << cut.chunk_log2 < p.columns && 1 << cut.chunk_log2 < kTileFloats)
    ++cut.chunk_log2;
  cut.rows = std::min(kMaxRows, kTileFloats >> cut.chunk_log2);
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((p.rows + cut.rows - 1) / cut.rows));
  shape.block = kThreads;
  cuda::launch(cuda::stream_of(ctx), shape, rms_norm_kernel<kNorm>, p, cut);
}

}  // namespace

void rms_norm_cuda(device::ExecContext& ctx, const RmsNormParams& p) {
  launch_norm<Norm::weighted>(ctx, p);
}

void rms_norm_bf16_steps_cuda(device::ExecContext& ctx, const RmsNormParams& p) {
  launch_norm<Norm::bf16_steps>(ctx, p);
}

void hyper_inv_rms_cuda(device::ExecContext& ctx, const float* streams, int64_t rows,
                        int64_t columns, float eps, float* inv_rms) {
  launch_norm<Norm::factor_only>(
      ctx, {streams, columns, nullptr, inv_rms, 1, rows, columns, eps, false});
}

}  // namespace cachalot::ops
