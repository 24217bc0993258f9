// Gradients of the matrix product Y = X W^T (matmul.h), X [M, K], W [N, K] with f32 master weights.
// Source  reference/infrastructure 5.3 (fixed order, no atomics); reference/training 6.8: Dgrad and
//         Wgrad of every linear.
//
// The gradient of X, dX += dY W, is itself a product: matmul() of dY with a PackedWeight of W's
// transpose (assign_transposed) and `accumulate`. For FP8 and FP4 weights that is the transpose of
// the dequantised values (tensor::dequantize), and the gradient of W goes straight through to the
// master.
//
// matmul_weight_grad: dW += dY^T X.
// Shapes  dy [M, N], dy_stride floats from row to row; x [*, K] likewise; x_rows null (row t of dy
//         belongs to row t of x) or [M] row numbers; dw [N, K], dw_stride >= K. dw overlaps
//         nothing. M may be 0.
// Numerics  dw[n, k] = fma(dy[t, n], x[t, k], dw[n, k]) for t ascending, from what dw holds: rows
//         in one call or in several, threads, tiles and instruction set cannot change the bits.
//         Denormals are kept.
// Errors  CHECK on shapes.
// Threads  concurrent calls need distinct ctx.
#pragma once

#include <cstdint>
#include <span>

#include "device/exec_context.h"

namespace cachalot::ops {

struct MatmulWeightGradParams {
  const float* dy;
  int64_t m;
  int64_t dy_stride;
  const float* x;
  int64_t x_stride;
  const int32_t* x_rows = nullptr;
  float* dw;
  int64_t n;
  int64_t k;
  int64_t dw_stride;
};
void matmul_weight_grad(device::ExecContext& ctx, const MatmulWeightGradParams& p);

// Several products with a dw each (the experts of a layer); the pool shares out all their tiles at
// once.
void grouped_matmul_weight_grad(device::ExecContext& ctx,
                                std::span<const MatmulWeightGradParams> products);

}  // namespace cachalot::ops
