#include "ops/matmul/dense_product_cuda.h"
#include "ops/matmul/packed_product.cuh"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

void streamed_product(device::ExecContext& ctx, const MatmulParams& p) {
  CACHALOT_CHECK(p.math == MatmulMath::bf16 && p.round_y && p.x_rows == nullptr);
  const bool quantised = p.w->on_gpu() == PackedWeight::OnGpu::streamed;
  const DenseShape shape{.form = quantised ? DenseForm::official_fp8 : DenseForm::unquantised,
                         .m = p.m,
                         .rows = p.w->rows(),
                         .columns = p.w->columns(),
                         .float_rows = true};
  const Result<DensePlan> plan = make_dense_plan(device::cuda::device_of(ctx), shape);
  CACHALOT_CHECK(plan.has_value());
  device::ArenaScope scope(*ctx.arena);
  std::byte* scratch = nullptr;
  if (plan->scratch_bytes > 0) scratch = ctx.arena->allocate<std::byte>(plan->scratch_bytes);
  launch_dense(*plan, device::cuda::stream_of(ctx), p.x, p.x_stride, p.w->streamed_bytes(), p.y,
               p.y_stride, scratch);
}

}  // namespace

void matmul_cuda(device::ExecContext& ctx, const MatmulParams& p) {
  CACHALOT_CHECK(!p.accumulate);  // training's
  CACHALOT_CHECK(p.chain_inputs == 0 || p.chain_inputs == packed::kChainInputs);
  if (p.w->on_gpu() != PackedWeight::OnGpu::panels) return streamed_product(ctx, p);
  const packed::Rows rows{
      p.x,       p.m,     p.x_stride, p.x_rows, p.y, p.y_stride, p.chain_inputs != 0,
      p.round_y, nullptr, nullptr,    0};
  packed::launch_product(ctx, p.w->format(), p.math, packed::weight_of(*p.w), rows, p.m == 1);
}

}  // namespace cachalot::ops
