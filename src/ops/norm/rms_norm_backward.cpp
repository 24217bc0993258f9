#include "base/check.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/norm/rms_norm.h"
#include "ops/norm/rms_norm_kernels.h"

namespace cachalot::ops {

void rms_norm_backward(device::ExecContext& ctx, const RmsNormBackwardParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.columns > 0);
  CACHALOT_CHECK(p.rows <= 1 ||
                 (p.x_stride >= p.columns && p.dy_stride >= p.columns && p.dx_stride >= p.columns));
  CACHALOT_CHECK(p.g != nullptr || p.dg == nullptr);
  device::ArenaScope scope(*ctx.arena);
  float* factors = ctx.arena->allocate<float>(p.rows);
  RmsNormBackwardRows* rows_kernel =
      pick_kernel(ctx.isa, rms_norm_backward_rows_ref, rms_norm_backward_rows_avx2,
                  rms_norm_backward_rows_avx512);
  for_row_blocks(ctx, p.rows, 2 * p.columns,
                 [&](int64_t first, int64_t last) { rows_kernel(p, factors, first, last); });
  if (p.dg == nullptr) return;
  RmsNormBackwardGain* gain_kernel =
      pick_kernel(ctx.isa, rms_norm_backward_gain_ref, rms_norm_backward_gain_avx2,
                  rms_norm_backward_gain_avx512);
  constexpr int64_t kColumns = 64;  // four cache lines of each row; a thread walks all rows
  ctx.pool->run((p.columns + kColumns - 1) / kColumns, [&](int64_t task, int) {
    gain_kernel(p, factors, task * kColumns, std::min(p.columns, (task + 1) * kColumns));
  });
}

}  // namespace cachalot::ops
