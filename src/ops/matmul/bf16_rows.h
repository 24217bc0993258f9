// grouped_matmul over rows of bf16 instead of float, which some of a GPU's products take.
// Shapes, numerics, errors  matmul.h. x [m, K of all products], contiguous; product i reads its own
//         K columns, after those of the one before; the products' x is not read, and x_rows null.
#pragma once

#include "ops/matmul/matmul.h"

namespace cachalot::ops {

bool products_take_bf16(const device::ExecContext& ctx, std::span<const MatmulParams> products);
// CHECK: they do.
void grouped_matmul_bf16(device::ExecContext& ctx, std::span<const MatmulParams> products,
                         const uint16_t* x);

}  // namespace cachalot::ops
