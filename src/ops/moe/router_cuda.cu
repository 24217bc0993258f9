#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/moe/router.h"
#include "ops/on_gpu.h"
#include "tile/order.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kThreads = 256;
constexpr int kMaxChoices = 64;
constexpr int kMaxExperts = 4096;
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

__device__ __forceinline__ float score(float logit) {
  const double v = logit;
  return static_cast<float>(sqrt(v > 20 ? v : log1p(exp(v))));
}

// A choice's rank in 64 bits: larger values first, then lower ids; NaN and -inf last.
__device__ __forceinline__ unsigned long long rank_of(float choice, int expert) {
  const uint32_t bits = __float_as_uint(choice + 0.0f);  // -0 becomes 0
  const bool last = choice != choice || bits == 0xFF800000u;
  const uint32_t key = last ? 0 : (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(key) << 32 | ~static_cast<uint32_t>(expert);
}

__device__ __forceinline__ unsigned long long warp_max(unsigned long long x) {
#pragma unroll
  for (int distance = 16; distance >= 1; distance /= 2) {
    const unsigned long long other = __shfl_xor_sync(kAllLanes, x, distance);
    x = other > x ? other : x;
  }
  return x;
}

// By warp 0: the k best of the ranks, of which a lane has kOwn in registers.
template <int kOwn>
__device__ void choose(const unsigned long long* ranks, int num_experts, int k, int32_t* ids) {
  const int lane = threadIdx.x % 32;
  unsigned long long own[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int e = i * 32 + lane;
    own[i] = e < num_experts ? ranks[e] : 0;
  }
  for (int i = 0; i < k; ++i) {
    unsigned long long best = 0;
#pragma unroll
    for (const unsigned long long rank : own) best = rank > best ? rank : best;
    best = warp_max(best);
#pragma unroll
    for (unsigned long long& rank : own) rank = rank == best ? 0 : rank;  // it is taken
    if (lane == 0) ids[i] = static_cast<int32_t>(~static_cast<uint32_t>(best));
  }
  __syncwarp();
}

// A block: one row.
__global__ void __launch_bounds__(kThreads) route_kernel(const __grid_constant__ RouterParams p) {
  extern __shared__ unsigned long long ranks[];
  __shared__ int32_t chosen[kMaxChoices];
  __shared__ float scores[kMaxChoices];
  tile::launch_dependents();
  tile::wait_for_producers();
  const int64_t row = blockIdx.x;
  const int num_experts = static_cast<int>(p.n_routed_experts);
  const int k = static_cast<int>(p.num_experts_per_tok);
  const float* logits = p.logits + row * num_experts;
  if (p.fixed_ids == nullptr) {
    for (int e = threadIdx.x; e < num_experts; e += kThreads) {
      ranks[e] = rank_of(score(logits[e]) + (p.bias != nullptr ? p.bias[e] : 0.0f), e);
    }
    __syncthreads();
  }
  if (threadIdx.x >= 32) return;
  const int lane = threadIdx.x;
  if (p.fixed_ids == nullptr) {
    if (num_experts <= 256) {
      choose<8>(ranks, num_experts, k, chosen);
    } else if (num_experts <= 512) {
      choose<16>(ranks, num_experts, k, chosen);
    } else {
      choose<kMaxExperts / 32>(ranks, num_experts, k, chosen);
    }
  } else {
    for (int i = lane; i < k; i += 32) chosen[i] = p.fixed_ids[row * k + i];
    __syncwarp();
  }
  // Ascending: an id's place is the number of those below it, and of equal ones before it.
  for (int i = lane; i < k; i += 32) {
    int place = 0;
    for (int j = 0; j < k; ++j) place += chosen[j] < chosen[i] || (chosen[j] == chosen[i] && j < i);
    p.ids[row * k + place] = chosen[i];
    scores[place] = score(logits[chosen[i]]);
  }
  __syncwarp();
  float total = 0;
  for (int i = 0; i < k; ++i) total += scores[i];
  for (int i = lane; i < k; i += 32) {
    p.weights[row * k + i] = scores[i] / (1e-20f + total) * p.routed_scaling_factor;
  }
}

}  // namespace

void route_cuda(device::ExecContext& ctx, const RouterParams& params) {
  CACHALOT_CHECK(params.scores == nullptr && params.num_experts_per_tok <= kMaxChoices);
  CACHALOT_CHECK(params.n_routed_experts <= kMaxExperts);
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
