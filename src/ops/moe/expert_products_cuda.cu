#include "ops/matmul/packed_product.cuh"
#include "ops/moe/expert_products.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {

void expert_products_cuda(device::ExecContext& ctx, const ExpertProductsParams& p) {
  // Where most experts have one pair, rows beside it would be none.
  const bool few = p.num_pairs * 8 <= p.num_experts;
  for (int i = 0; i < p.num_parts; ++i) {
    const ExpertProductsParams::Part& part = p.parts[i];
    const PackedWeight& first = part.weights[0];
    const std::byte** data = ctx.table<const std::byte*>(p.num_experts);
    bool has_nan_codes = false;
    for (int64_t e = 0; e < p.num_experts; ++e) {
      CACHALOT_DCHECK(part.weights[e].format() == first.format());
      data[e] = part.weights[e].bytes().data();
      has_nan_codes |= part.weights[e].has_nan_codes();
    }
    packed::Weight w = packed::weight_of(first);
    w.has_nan_codes = has_nan_codes;
    const packed::Rows rows{p.x,
                            p.num_pairs,
                            p.x_stride,
                            p.x_rows,
                            part.y,
                            part.y_stride,
                            false,
                            p.round_y,
                            ctx.gpu->on_device(data),
                            p.first_pair,
                            static_cast<int>(p.num_experts)};
    packed::launch_product(ctx, first.format(), p.math, w, rows, few);
  }
}

}  // namespace cachalot::ops
