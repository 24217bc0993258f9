#include "ops/elementwise/block_sum.cuh"
#include "ops/elementwise/element_kernel.cuh"
#include "ops/moe/dispatch.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kThreads = 256;
using Sum = BlockSum<kThreads>;

// A block: the pairs of one expert; every block counts those of the experts before it.
__global__ void __launch_bounds__(kThreads)
    dispatch_kernel(const __grid_constant__ DispatchParams p) {
  __shared__ int of_warps[kThreads / 32];
  tile::launch_dependents();
  tile::wait_for_producers();
  const auto expert = static_cast<int32_t>(blockIdx.x);
  const int num_pairs = static_cast<int>(p.rows * p.num_experts_per_tok);
  // A thread's choices lie together, so that its pairs follow each other.
  const int per_thread = (num_pairs + kThreads - 1) / kThreads;
  const int begin = min(num_pairs, static_cast<int>(threadIdx.x) * per_thread);
  const int end = min(num_pairs, begin + per_thread);
  int num_before = 0, num_own = 0;
#pragma unroll 4
  for (int i = begin; i < end; ++i) {
    const int32_t id = p.ids[i];
    num_before += id < expert;
    num_own += id == expert;
  }
  const int first = Sum::of(num_before, of_warps).total;
  const Sum own = Sum::of(num_own, of_warps);
  if (threadIdx.x == 0) {
    p.first_pair[expert] = first;
    if (expert + 1 == p.n_routed_experts) p.first_pair[expert + 1] = first + own.total;
  }
  int pair = first + own.before;
  for (int i = begin; i < end && num_own > 0; ++i) {
    if (p.ids[i] != expert) continue;
    p.token_of_pair[pair] = i / static_cast<int>(p.num_experts_per_tok);
    p.pair_of_choice[i] = pair;
    ++pair;
  }
}

struct HashIds {
  const int32_t* table;
  const int32_t* tokens;
  int64_t k;
  int32_t* ids;
  __device__ void operator()(int64_t row, int64_t i) const {
    ids[row * k + i] = table[static_cast<int64_t>(tokens[row]) * k + i];
  }
};

}  // namespace

void dispatch_cuda(device::ExecContext& ctx, const DispatchParams& p) {
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(p.n_routed_experts));
  shape.block = kThreads;
  cuda::launch(cuda::stream_of(ctx), shape, dispatch_kernel, p);
}

void hash_expert_ids_cuda(device::ExecContext& ctx, const int32_t* table, const int32_t* tokens,
                          int64_t rows, int64_t k, int32_t* ids) {
  launch_elements(ctx, rows, k,
                  HashIds{ctx.gpu->on_device(table), ctx.gpu->on_device(tokens), k, ids});
}

}  // namespace cachalot::ops
