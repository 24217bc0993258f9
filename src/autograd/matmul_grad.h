// Matrix products, recorded. Source: ops/matmul/matmul.h, matmul_backward.h.
// A weight that the tape does not know (Tape::add_matrix) gets no gradient and passes none on. Products of one call that read x in
// place read different x, and gathered rows of one product are different rows: their gradients are added side by side.
#pragma once

#include <span>

#include "autograd/tape.h"
#include "ops/matmul/matmul.h"

namespace cachalot::autograd {

void matmul(Context ctx, std::span<const ops::MatmulParams> products);

}  // namespace cachalot::autograd
