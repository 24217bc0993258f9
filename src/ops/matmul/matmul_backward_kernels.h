// The reference version of matmul_backward.h; the fast ones run on matmul_kernels.h.
#pragma once

#include "ops/matmul/matmul_backward.h"

namespace cachalot::ops {

// Row n of dw.
void matmul_weight_grad_ref(const MatmulWeightGradParams& p, int64_t n);

}  // namespace cachalot::ops
