#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/moe/router.cuh"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kThreads = 256;

// A block: one row.
__global__ void __launch_bounds__(kThreads) route_kernel(const __grid_constant__ RouterParams p) {
  extern __shared__ uint32_t values[];
  tile::launch_dependents();
  __shared__ router::Choices choices;
  router::route_row<BlockGroup<kThreads>, router::kMaxExperts>(p, blockIdx.x, values, choices);
}

}  // namespace

void route_cuda(device::ExecContext& ctx, const RouterParams& params) {
  CACHALOT_CHECK(params.scores == nullptr && params.num_experts_per_tok <= router::kMaxChoices);
  CACHALOT_CHECK(params.n_routed_experts <= router::kMaxExperts);
  if (params.rows == 0) return;
  RouterParams p = params;
  if (p.bias != nullptr) p.bias = ctx.gpu->on_device(p.bias);
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(p.rows));
  shape.block = kThreads;
  shape.smem_bytes = p.n_routed_experts * 8;
  cuda::launch(cuda::stream_of(ctx), shape, route_kernel, p);
}

}  // namespace cachalot::ops
