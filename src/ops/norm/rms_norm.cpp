#include "ops/norm/rms_norm.h"

#include "base/check.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/norm/rms_norm_kernels.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

void run(device::ExecContext& ctx, const RmsNormParams& p, RmsNormKernel* kernel) {
  CACHALOT_CHECK(p.rows >= 0 && p.columns > 0);
  CACHALOT_CHECK(p.rows <= 1 || (p.x_stride >= p.columns && p.y_stride >= p.columns));
  for_row_blocks(ctx, p.rows, p.columns,
                 [&](int64_t first, int64_t last) { kernel(p, first, last); });
}

}  // namespace

void rms_norm(device::ExecContext& ctx, const RmsNormParams& p) {
  if (ctx.gpu != nullptr) return rms_norm_cuda(ctx, p);
  run(ctx, p, pick_kernel(ctx.isa, rms_norm_ref, rms_norm_avx2, rms_norm_avx512));
}

void rms_norm_bf16_steps(device::ExecContext& ctx, const RmsNormParams& p) {
  if (ctx.gpu != nullptr) return rms_norm_bf16_steps_cuda(ctx, p);
  run(ctx, p,
      pick_kernel(ctx.isa, rms_norm_bf16_steps_ref, rms_norm_bf16_steps_avx2,
                  rms_norm_bf16_steps_avx512));
}

}  // namespace cachalot::ops
