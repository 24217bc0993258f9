#include "ops/elementwise/element_kernel.cuh"
#include "ops/moe/swiglu.cuh"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

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
