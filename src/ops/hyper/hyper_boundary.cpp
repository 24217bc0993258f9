#include "ops/hyper/hyper_boundary.h"

#include "base/check.h"
#include "ops/matmul/matmul.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {

void hyper_boundary(device::ExecContext& ctx, const HyperBoundaryRows& p) {
  const bool head = p.post == nullptr;
  CACHALOT_CHECK(ctx.gpu != nullptr && p.rows >= 0 && hyper_boundary_fits(4, p.d));
  CACHALOT_CHECK(p.fn->format() == WeightFormat::f32 && p.fn->columns() == 4 * p.d &&
                 p.fn->rows() == (head ? 4 : 24));
  CACHALOT_CHECK((p.comb == nullptr) == head);
  CACHALOT_CHECK((p.y != nullptr) + (p.y_bf16 != nullptr) + (p.sum != nullptr) <= (head ? 0 : 1));
  CACHALOT_CHECK((p.out != nullptr) + (p.out_bf16 != nullptr) == 1);
  CACHALOT_CHECK(p.sinkhorn_iters >= 1);
  CACHALOT_CHECK(p.sum == nullptr || p.rows <= kMaxSummedRows);
  if (ctx.work != nullptr) count_product(*p.fn, p.rows, *ctx.work);
  if (p.rows > 0) hyper_boundary_cuda(ctx, p);
}

void boundary_streams(device::ExecContext& ctx, const BoundaryStreams& p) {
  CACHALOT_CHECK(ctx.gpu != nullptr && p.columns % 4 == 0 && p.from_stride % 4 == 0);
  boundary_streams_cuda(ctx, p);
}

void last_streams(device::ExecContext& ctx, const LastStreams& p) {
  CACHALOT_CHECK(ctx.gpu != nullptr && hyper_boundary_fits(4, p.d));
  last_streams_cuda(ctx, p);
}

}  // namespace cachalot::ops
