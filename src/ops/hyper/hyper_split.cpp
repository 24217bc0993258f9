// The small per-token part of mHC: from the mixing logits to pre, post and comb, and back.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "device/buffer.h"
#include "ops/elementwise/exp.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/hyper/hyper_connection.h"
#include "ops/hyper/hyper_connection_kernels.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

float sigmoid(float z) { return 1.0f / (1.0f + exp_f32(-z)); }

float head_logit(const float* mixes, const float* inv_rms, const float* base, const float* scale,
                 int64_t row, int64_t n, int64_t j) {
  return mixes[row * n + j] * inv_rms[row] * scale[0] + base[j];
}

// Below this many rows a lane for each costs more than one row after the other.
constexpr int64_t kFewRows = 4;

int64_t num_tasks(int64_t rows) { return (rows + kSplitLanes - 1) / kSplitLanes; }

}  // namespace

void hyper_split(device::ExecContext& ctx, const HyperSplitParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.n >= 1 && p.n <= kMaxStreams);
  if (ctx.gpu != nullptr) return hyper_split_cuda(ctx, p);
  HyperSplitKernel* kernel = p.rows < kFewRows ? hyper_split_ref
                                               : pick_kernel(ctx.isa, hyper_split_ref,
                                                             hyper_split_avx2, hyper_split_avx512);
  ctx.pool->run(num_tasks(p.rows), [&](int64_t task, int) {
    kernel(p, task * kSplitLanes, std::min(p.rows, (task + 1) * kSplitLanes));
  });
}

void hyper_split_backward(device::ExecContext& ctx, const HyperSplitParams& p,
                          const HyperSplitGradients& g) {
  CACHALOT_CHECK(p.rows >= 0 && p.n >= 1 && p.n <= kMaxStreams);
  HyperSplitBackwardKernel* kernel =
      p.rows < kFewRows ? hyper_split_backward_ref
                        : pick_kernel(ctx.isa, hyper_split_backward_ref, hyper_split_backward_avx2,
                                      hyper_split_backward_avx512);
  const int64_t width = 2 * p.n + p.n * p.n;
  const int64_t passes_floats = hyper_split_passes_floats(p);
  device::ArenaScope scope(*ctx.arena);
  HyperSplitScratch scratch{};
  scratch.d_logits = ctx.arena->allocate<float>(p.rows * width);
  scratch.d_scale = ctx.arena->allocate<float>(p.rows * 3);
  float* passes = ctx.arena->allocate<float>(ctx.pool->num_threads() * passes_floats);
  ctx.pool->run(num_tasks(p.rows), [&](int64_t task, int worker) {
    HyperSplitScratch mine = scratch;
    mine.passes = passes + worker * passes_floats;
    kernel(p, g, mine, task * kSplitLanes, std::min(p.rows, (task + 1) * kSplitLanes));
  });
  // A few additions a row, in the order of the rows.
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int64_t i = 0; g.d_base != nullptr && i < width; ++i) {
      g.d_base[i] += scratch.d_logits[row * width + i];
    }
    for (int64_t part = 0; g.d_scale != nullptr && part < 3; ++part) {
      g.d_scale[part] += scratch.d_scale[row * 3 + part];
    }
  }
}

void hyper_head_split(device::ExecContext& ctx, const float* mixes, const float* inv_rms,
                      const float* base, const float* scale, int64_t rows, int64_t n, float hc_eps,
                      float* pre) {
  CACHALOT_CHECK(rows >= 0 && n >= 1 && n <= kMaxStreams);
  if (ctx.gpu != nullptr)
    return hyper_head_split_cuda(ctx, mixes, inv_rms, base, scale, rows, n, hc_eps, pre);
  for_row_blocks(ctx, rows, 16 * n, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t j = 0; j < n; ++j) {
        pre[row * n + j] = sigmoid(head_logit(mixes, inv_rms, base, scale, row, n, j)) + hc_eps;
      }
    }
  });
}

// On one thread and in scalars: n sigmoids a row, once in a model.
void hyper_head_split_backward(device::ExecContext&, const HyperHeadSplitBackwardParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.n >= 1 && p.n <= kMaxStreams);
  for (int64_t row = 0; row < p.rows; ++row) {
    const float factor = p.inv_rms[row] * p.scale[0];
    float dot = 0;
    for (int64_t j = 0; j < p.n; ++j) {
      const int64_t i = row * p.n + j;
      const float s = sigmoid(head_logit(p.mixes, p.inv_rms, p.base, p.scale, row, p.n, j));
      const float d_logit = p.d_pre[i] * (s * (1.0f - s));
      dot = std::fma(d_logit, p.mixes[i], dot);
      p.d_mixes[i] += d_logit * factor;
      if (p.d_base != nullptr) p.d_base[j] += d_logit;
    }
    p.d_inv_rms[row] += dot * p.scale[0];
    if (p.d_scale != nullptr) p.d_scale[0] += dot * p.inv_rms[row];
  }
}

}  // namespace cachalot::ops
