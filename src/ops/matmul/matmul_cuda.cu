#include "ops/matmul/packed_product.cuh"
#include "ops/on_gpu.h"

namespace cachalot::ops {

void matmul_cuda(device::ExecContext& ctx, const MatmulParams& p) {
  CACHALOT_CHECK(!p.accumulate);  // training's
  CACHALOT_CHECK(p.chain_inputs == 0 || p.chain_inputs == packed::kChainInputs);
  const packed::Rows rows{
      p.x,       p.m,     p.x_stride, p.x_rows, p.y, p.y_stride, p.chain_inputs != 0,
      p.round_y, nullptr, nullptr,    0};
  packed::launch_product(ctx, p.w->format(), p.math, packed::weight_of(*p.w), rows, p.m == 1);
}

}  // namespace cachalot::ops
