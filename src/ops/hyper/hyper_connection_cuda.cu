#include "ops/elementwise/element_kernel.cuh"
#include "ops/elementwise/exp.cuh"
#include "ops/hyper/hyper_connection_kernels.h"
#include "ops/on_gpu.h"
#include "tile/convert.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kMaxMatrix = kMaxStreams * kMaxStreams;

__device__ __forceinline__ float sigmoid(float z) {
  return 1.0f / (1.0f + exp_f32_device(0.0f - z));
}

// The sum of n values `step` apart, ascending.
__device__ __forceinline__ float line_sum(const float* x, int n, int step) {
  float sum = x[0];
  for (int i = 1; i < n; ++i) sum += x[i * step];
  return sum;
}

// Sinkhorn of the n x n matrix c by one warp: a lane has elements lane and lane + 32.
// reference/forward 2.4, in the order of hyper_split_lanes.h.
__device__ void sinkhorn(float* c, int n, int passes, float eps) {
  const int size = n * n;
  const auto for_own = [&](auto next_of) {
    float next[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = static_cast<int>(threadIdx.x) + 32 * i;
      if (at < size) next[i] = next_of(at);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = static_cast<int>(threadIdx.x) + 32 * i;
      if (at < size) c[at] = next[i];
    }
    __syncwarp();
  };
  for_own([&](int at) {
    const float* row = c + at / n * n;
    float largest = row[0];
    for (int k = 1; k < n; ++k) largest = row[k] > largest ? row[k] : largest;
    return exp_f32_device(c[at] - largest);
  });
  for_own([&](int at) { return c[at] / line_sum(c + at / n * n, n, 1) + eps; });
  for (int pass = 1; pass < passes; ++pass) {
    const bool columns = pass % 2 != 0;
    for_own([&](int at) {
      const float sum = columns ? line_sum(c + at % n, n, n) : line_sum(c + at / n * n, n, 1);
      return c[at] / (sum + eps);
    });
  }
}

// A block, one warp: one row.
__global__ void __launch_bounds__(32) split_kernel(const __grid_constant__ HyperSplitParams p) {
  __shared__ float c[kMaxMatrix];
  tile::launch_dependents();
  tile::wait_for_producers();
  const int n = static_cast<int>(p.n);
  const int width = 2 * n + n * n;
  const int64_t row = blockIdx.x;
  const float inv_rms = p.inv_rms[row];
  for (int i = threadIdx.x; i < width; i += 32) {
    const int part = i < n ? 0 : i < 2 * n ? 1 : 2;
    const float logit = p.mixes[row * width + i] * inv_rms * p.scale[part] + p.base[i];
    if (part == 0) {
      p.pre[row * n + i] = sigmoid(logit) + p.hc_eps;
    } else if (part == 1) {
      p.post[row * n + i - n] = 2.0f * sigmoid(logit);
    } else {
      const int at = i - 2 * n;
      c[at] = p.kind == HyperKind::mhc || at / n != at % n ? logit : logit + 1.0f;
    }
  }
  __syncwarp();
  if (p.kind == HyperKind::mhc) {
    sinkhorn(c, n, 2 * static_cast<int>(max(p.sinkhorn_iters, int64_t{1})), p.hc_eps);
  }
  for (int i = threadIdx.x; i < n * n; i += 32) p.comb[row * n * n + i] = c[i];
}

struct HeadSplit {
  const float* mixes;
  const float* inv_rms;
  const float* base;
  const float* scale;
  int64_t n;
  float hc_eps;
  float* pre;
  __device__ void operator()(int64_t row, int64_t j) const {
    pre[row * n + j] = sigmoid(mixes[row * n + j] * inv_rms[row] * scale[0] + base[j]) + hc_eps;
  }
};

struct Pre {
  HyperPreParams p;
  __device__ void operator()(int64_t row, int64_t i) const {
    const float* x = p.streams + row * p.n * p.d + i;
    const float* pre = p.pre + row * p.n;
    float u = pre[0] * x[0];
    for (int64_t j = 1; j < p.n; ++j) u = fmaf(pre[j], x[j * p.d], u);
    p.u[row * p.d + i] = p.round_u ? tile::round_to_bf16(u) : u;
  }
};

template <int kStreams>
struct Post {
  HyperPostParams p;
  __device__ void operator()(int64_t row, int64_t i) const {
    const float* x = p.streams + row * kStreams * p.d + i;
    float* out = p.out + row * kStreams * p.d + i;
    const float* post = p.post + row * kStreams;
    const float* comb = p.comb + row * kStreams * kStreams;
    const float y = p.y[row * p.d + i];
    float old[kStreams];
#pragma unroll
    for (int j = 0; j < kStreams; ++j) old[j] = x[j * p.d];
#pragma unroll
    for (int k = 0; k < kStreams; ++k) {
      float value = post[k] * y;
#pragma unroll
      for (int j = 0; j < kStreams; ++j) value = fmaf(comb[j * kStreams + k], old[j], value);
      out[k * p.d] = p.round_x ? tile::round_to_bf16(value) : value;
    }
  }
};

// For n = kStreams or fewer.
template <int kStreams>
void launch_post(device::ExecContext& ctx, int64_t rows, const HyperPostParams& p) {
  if (p.n == kStreams) return launch_elements(ctx, rows, p.d, Post<kStreams>{p});
  if constexpr (kStreams > 1) launch_post<kStreams - 1>(ctx, rows, p);
}

}  // namespace

void hyper_split_cuda(device::ExecContext& ctx, const HyperSplitParams& params) {
  if (params.rows == 0) return;
  HyperSplitParams p = params;
  p.base = ctx.gpu->on_device(p.base);
  p.scale = ctx.gpu->on_device(p.scale);
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(p.rows));
  shape.block = 32;
  cuda::launch(cuda::stream_of(ctx), shape, split_kernel, p);
}

void hyper_head_split_cuda(device::ExecContext& ctx, const float* mixes, const float* inv_rms,
                           const float* base, const float* scale, int64_t rows, int64_t n,
                           float hc_eps, float* pre) {
  launch_elements(ctx, rows, n,
                  HeadSplit{mixes, inv_rms, ctx.gpu->on_device(base), ctx.gpu->on_device(scale), n,
                            hc_eps, pre});
}

void hyper_pre_cuda(device::ExecContext& ctx, const float* streams, const float* pre, int64_t rows,
                    int64_t n, int64_t d, bool round_u, float* u) {
  launch_elements(ctx, rows, d, Pre{{streams, pre, n, d, round_u, u}});
}

void hyper_post_cuda(device::ExecContext& ctx, const float* streams, const float* y,
                     const float* post, const float* comb, int64_t rows, int64_t n, int64_t d,
                     bool round_x, float* out) {
  launch_post<kMaxStreams>(ctx, rows, {streams, y, post, comb, n, d, round_x, out});
}

}  // namespace cachalot::ops
