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
  CACHALOT_CHECK((p.comb == nullptr) == head && (p.y == nullptr || !head));
  CACHALOT_CHECK(p.sinkhorn_iters >= 1);
  CACHALOT_CHECK(p.sum == nullptr || (p.y == nullptr && !head && p.rows <= kMaxSummedRows));
  if (ctx.work != nullptr) count_product(*p.fn, p.rows, *ctx.work);
  if (p.rows > 0) hyper_boundary_cuda(ctx, p);
}

}  // namespace cachalot::ops
