// Matrix products, recorded. Source: ops/matmul/matmul.h, matmul_backward.h; reference/training
// 6.8. A weight that the tape does not know (Tape::add_matrix) gets no gradient and passes none on.
// Products of one call that read x in place read different x, and gathered rows of one product are
// different rows: their gradients are added side by side.
#pragma once

#include <span>

#include "autograd/tape.h"
#include "ops/matmul/matmul.h"

namespace cachalot::autograd {

// What the gradient of y is rounded to before it is multiplied; sums are fp32 in all.
//   f32   nothing.
//   bf16  bf16 in both products. dX = dY W is bf16 math (the kernels of the forward pass). dW stays
//         a chain over rows in f32 math, whose products of bf16 values are exact: pairs of rows, as
//         bf16 math takes them, would make the sum depend on how rows are cut.
//   fp8   E4M3 with power-of-two scales: 1 x 128 along the outputs in dX = dY W; in dW both dY and
//         the x of the forward pass anew, 128 rows x 1. Rows count from the product's first, so
//         dW's last bits depend on how samples are cut into calls (never on threads).
// Rounding gradients is not differentiated through; what the forward pass rounded passes its
// gradient straight through: the weight's gradient is that of the value multiplied by, unmasked,
// and so goes to the master.
enum class GradientFormat { f32, bf16, fp8 };

void matmul(Context ctx, std::span<const ops::MatmulParams> products,
            GradientFormat format = GradientFormat::f32);

}  // namespace cachalot::autograd
