#include "ops/elementwise/element_kernel.cuh"
#include "ops/elementwise/exp.cuh"
#include "ops/moe/swiglu.h"
#include "ops/on_gpu.h"
#include "tile/convert.cuh"

namespace cachalot::ops {
namespace {

struct Swiglu {
  SwigluParams p;
  __device__ void operator()(int64_t row, int64_t column) const {
    const int64_t at = row * p.columns + column;
    float g = p.gate[at];
    float u = p.up[at];
    if (p.limit > 0) {
      // Comparisons, so that NaN stays NaN.
      if (g > p.limit) g = p.limit;
      if (u > p.limit) u = p.limit;
      if (u < -p.limit) u = -p.limit;
    }
    float h = g / (1.0f + exp_f32_device(-g)) * u;
    if (p.weight != nullptr) h = p.weight[row] * h;
    p.h[at] = p.round_h ? tile::round_to_bf16(h) : h;
  }
};

struct Combine {
  MoeCombineParams p;
  __device__ void operator()(int64_t row, int64_t column) const {
    float sum = 0;
    for (int64_t j = 0; j < p.k; ++j)
      sum += p.y[static_cast<int64_t>(p.slots[row * p.k + j]) * p.columns + column];
    if (p.shared != nullptr) sum += p.shared[row * p.columns + column];
    p.out[row * p.columns + column] = p.round_out ? tile::round_to_bf16(sum) : sum;
  }
};

}  // namespace

void swiglu_cuda(device::ExecContext& ctx, const SwigluParams& p) {
  CACHALOT_CHECK(p.clamped == nullptr);  // counts are training's, which runs on the CPU
  launch_elements(ctx, p.rows, p.columns, Swiglu{p});
}

void moe_combine_cuda(device::ExecContext& ctx, const MoeCombineParams& p) {
  launch_elements(ctx, p.rows, p.columns, Combine{p});
}

}  // namespace cachalot::ops
