#include "ops/moe/expert_products.h"

namespace cachalot::ops {

int64_t list_expert_products(const ExpertProductsParams& p, MatmulParams* out) {
  int64_t count = 0;
  for (int64_t e = 0; e < p.num_experts; ++e) {
    const int64_t first = p.first_pair[e], rows = p.first_pair[e + 1] - first;
    if (rows == 0) continue;
    for (int i = 0; i < p.num_parts; ++i) {
      const ExpertProductsParams::Part& part = p.parts[i];
      MatmulParams product{};
      product.x = p.x_rows != nullptr ? p.x : p.x + first * p.x_stride;
      product.m = rows;
      product.x_stride = p.x_stride;
      product.x_rows = p.x_rows != nullptr ? p.x_rows + first : nullptr;
      product.w = &part.weights[e];
      product.y = part.y + first * part.y_stride;
      product.y_stride = part.y_stride;
      product.math = p.math;
      product.round_y = p.round_y;
      out[count++] = product;
    }
  }
  return count;
}

void count_expert_products(const ExpertProductsParams& p, device::Work& work) {
  for (int i = 0; i < p.num_parts; ++i) {
    const PackedWeight& w = p.parts[i].weights[0];
    count_product(w, p.num_pairs, work);
  }
}

}  // namespace cachalot::ops
