// The definition: plain loops over the chains of matmul_backward.h.
#include <cmath>

#include "ops/matmul/matmul_backward_kernels.h"

namespace cachalot::ops {

void matmul_weight_grad_ref(const MatmulWeightGradParams& p, int64_t n) {
  for (int64_t t = 0; t < p.m; ++t) {
    const float dy = p.dy[t * p.dy_stride + n];
    const float* x = p.x + (p.x_rows != nullptr ? p.x_rows[t] : t) * p.x_stride;
    for (int64_t k = 0; k < p.k; ++k) {
      float& dw = p.dw[n * p.dw_stride + k];
      dw = std::fma(dy, x[k], dw);
    }
  }
}

}  // namespace cachalot::ops
