#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/on_gpu.h"
#include "ops/rope/head_rows.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kThreads = 128;

template <int kValues>
__global__ void __launch_bounds__(kThreads)
    head_rows_kernel(const __grid_constant__ HeadRowsParams p, float factor) {
  tile::launch_dependents();
  constexpr int kHeads = kThreads / heads::kLanes;
  heads::head_row<kValues>(p, factor,
                           static_cast<int64_t>(blockIdx.x) * kHeads + threadIdx.x / heads::kLanes);
}

}  // namespace

bool head_rows_cuda_fits(const HeadRowsParams& p) {
  const bool dim = p.head_dim == 32 || p.head_dim == 64 || p.head_dim == 128 || p.head_dim == 512;
  return dim && p.rope_dim % heads::kLanes == 0 && p.rope_dim > 0 && p.rope_dim <= 64 &&
         p.rope_dim <= p.head_dim &&
         (p.snap != HeadSnap::fp8 || (p.head_dim - p.rope_dim) % 64 == 0);
}

void head_rows_cuda(device::ExecContext& ctx, const HeadRowsParams& params) {
  if (params.rows == 0) return;
  HeadRowsParams p = params;
  if (p.g != nullptr) p.g = ctx.gpu->on_device(p.g);
  cuda::LaunchShape shape;
  constexpr int64_t kHeads = kThreads / heads::kLanes;
  shape.grid = dim3(static_cast<unsigned>((p.rows * p.heads + kHeads - 1) / kHeads));
  shape.block = kThreads;
  auto* const kernel = p.head_dim == 32    ? head_rows_kernel<2>
                       : p.head_dim == 64  ? head_rows_kernel<4>
                       : p.head_dim == 128 ? head_rows_kernel<8>
                                           : head_rows_kernel<32>;
  cuda::launch(cuda::stream_of(ctx), shape, kernel, p, heads::hadamard_factor(p.head_dim));
}

}  // namespace cachalot::ops
