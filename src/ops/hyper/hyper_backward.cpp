#include "base/check.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/hyper/hyper_connection.h"
#include "ops/hyper/hyper_connection_kernels.h"

namespace cachalot::ops {

void hyper_inv_rms_backward(device::ExecContext& ctx, const float* streams, const float* inv_rms,
                            const float* d_inv_rms, int64_t rows, int64_t columns,
                            float* d_streams) {
  CACHALOT_CHECK(rows >= 0 && columns > 0);
  HyperInvRmsBackwardKernel* kernel =
      pick_kernel(ctx.isa, hyper_inv_rms_backward_ref, hyper_inv_rms_backward_avx2,
                  hyper_inv_rms_backward_avx512);
  for_row_blocks(ctx, rows, columns, [&](int64_t first, int64_t last) {
    kernel(streams, inv_rms, d_inv_rms, first, last, columns, d_streams);
  });
}

void hyper_pre_backward(device::ExecContext& ctx, const HyperPreBackwardParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.d > 0 && p.n >= 1 && p.n <= kMaxStreams);
  HyperPreBackwardKernel* kernel = pick_kernel(ctx.isa, hyper_pre_backward_ref,
                                               hyper_pre_backward_avx2, hyper_pre_backward_avx512);
  for_row_blocks(ctx, p.rows, p.n * p.d,
                 [&](int64_t first, int64_t last) { kernel(p, first, last); });
}

void hyper_post_backward(device::ExecContext& ctx, const HyperPostBackwardParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.d > 0 && p.n >= 1 && p.n <= kMaxStreams);
  HyperPostBackwardKernel* kernel = pick_kernel(
      ctx.isa, hyper_post_backward_ref, hyper_post_backward_avx2, hyper_post_backward_avx512);
  for_row_blocks(ctx, p.rows, p.n * p.n * p.d,
                 [&](int64_t first, int64_t last) { kernel(p, first, last); });
}

}  // namespace cachalot::ops
