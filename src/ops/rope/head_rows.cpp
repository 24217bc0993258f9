#include "ops/rope/head_rows.h"

#include "base/check.h"
#include "ops/norm/rms_norm.h"
#include "ops/on_gpu.h"
#include "ops/quant/act_quant.h"

namespace cachalot::ops {
namespace {

void norm(device::ExecContext& ctx, const HeadRowsParams& p) {
  if (p.norm == HeadNorm::none) return;
  CACHALOT_CHECK(p.heads == 1 || p.row_stride == p.heads * p.head_dim);
  const int64_t stride = p.heads == 1 ? p.row_stride : p.head_dim;
  const RmsNormParams params{p.x,        stride, p.g,    p.x, stride, p.rows * p.heads,
                             p.head_dim, p.eps,  p.round};
  p.norm == HeadNorm::weighted ? rms_norm(ctx, params) : rms_norm_bf16_steps(ctx, params);
}

// The rows that the quantisers see: a head each, or all heads' first values.
RowsParams quantised_rows(const HeadRowsParams& p, int64_t columns) {
  CACHALOT_CHECK(p.heads == 1 || p.row_stride == p.heads * p.head_dim);
  return {p.x, p.rows * p.heads, columns, p.heads == 1 ? p.row_stride : p.head_dim};
}

}  // namespace

bool head_rows_takes_bf16(const device::ExecContext& ctx, const HeadRowsParams& p) {
  return ctx.gpu != nullptr && p.round && head_rows_cuda_fits(p);
}

void head_rows(device::ExecContext& ctx, const HeadRowsParams& p) {
  CACHALOT_CHECK((p.to_bf16 == nullptr && p.from_bf16 == nullptr) || head_rows_takes_bf16(ctx, p));
  if (ctx.gpu != nullptr && head_rows_cuda_fits(p)) return head_rows_cuda(ctx, p);
  norm(ctx, p);
  rope(ctx, {p.x, p.rows, p.row_stride, p.heads, p.head_dim, p.rope_dim, p.table, false, p.round});
  if (p.hadamard) hadamard(ctx, quantised_rows(p, p.head_dim), p.round);
  if (p.snap == HeadSnap::fp8) simulate_fp8(ctx, quantised_rows(p, p.head_dim - p.rope_dim), 64);
  if (p.snap == HeadSnap::fp4) simulate_fp4(ctx, quantised_rows(p, p.head_dim));
}

}  // namespace cachalot::ops
