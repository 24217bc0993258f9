#include "ops/hyper/hyper_connection.h"

#include "base/check.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/hyper/hyper_connection_kernels.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {

void hyper_inv_rms(device::ExecContext& ctx, const float* streams, int64_t rows, int64_t columns,
                   float eps, float* inv_rms) {
  CACHALOT_CHECK(rows >= 0 && columns > 0);
  if (ctx.gpu != nullptr) return hyper_inv_rms_cuda(ctx, streams, rows, columns, eps, inv_rms);
  HyperInvRmsKernel* kernel =
      pick_kernel(ctx.isa, hyper_inv_rms_ref, hyper_inv_rms_avx2, hyper_inv_rms_avx512);
  for_row_blocks(ctx, rows, columns, [&](int64_t first, int64_t last) {
    kernel(streams, first, last, columns, eps, inv_rms);
  });
}

void hyper_pre(device::ExecContext& ctx, const float* streams, const float* pre, int64_t rows,
               int64_t n, int64_t d, bool round_u, float* u) {
  CACHALOT_CHECK(rows >= 0 && d > 0 && n >= 1 && n <= kMaxStreams);
  if (ctx.gpu != nullptr) return hyper_pre_cuda(ctx, streams, pre, rows, n, d, round_u, u);
  HyperPreKernel* kernel = pick_kernel(ctx.isa, hyper_pre_ref, hyper_pre_avx2, hyper_pre_avx512);
  const HyperPreParams p{streams, pre, n, d, round_u, u};
  for_tiles(ctx, rows, d, n, [&](const Tile& tile) { kernel(p, tile); });
}

void hyper_post(device::ExecContext& ctx, const float* streams, const float* y, const float* post,
                const float* comb, int64_t rows, int64_t n, int64_t d, bool round_x, float* out) {
  CACHALOT_CHECK(rows >= 0 && d > 0 && n >= 1 && n <= kMaxStreams);
  if (ctx.gpu != nullptr)
    return hyper_post_cuda(ctx, streams, y, post, comb, rows, n, d, round_x, out);
  HyperPostKernel* kernel =
      pick_kernel(ctx.isa, hyper_post_ref, hyper_post_avx2, hyper_post_avx512);
  const HyperPostParams p{streams, y, post, comb, n, d, round_x, out};
  for_tiles(ctx, rows, d, n, [&](const Tile& tile) { kernel(p, tile); });
}

}  // namespace cachalot::ops
