// grouped_matmul with rows of bf16 instead of float, which some of a GPU's products take: those of
// many rows.
// Shapes, numerics, errors  matmul.h. Of the two what is not null is bf16: x [m, K of all
//         products], contiguous, of which product i reads its own K columns, after those of the one
//         before, or with shared_x [m, K], which all read; y [m, N of all products], contiguous,
//         likewise, where all round theirs. The products' own x or y is then not touched; x_rows,
//         norm and swiglu are null. x of floats is one of all products, or each one's own after
//         that of the one before.
#pragma once

#include "ops/matmul/matmul.h"

namespace cachalot::ops {

struct Bf16Rows {
  const uint16_t* x = nullptr;
  uint16_t* y = nullptr;
  bool shared_x = false;  // of x in bf16
};

// Whether the products' x, y or both may be bf16.
bool products_take_bf16(const device::ExecContext& ctx, std::span<const MatmulParams> products,
                        bool x, bool y, bool shared_x = false);
// CHECK: they may.
void grouped_matmul_bf16(device::ExecContext& ctx, std::span<const MatmulParams> products,
                         const Bf16Rows& rows);

// Products of several kinds of weights over one x in bf16 [m, K], contiguous, as grouped_matmul has
// them over the same in floats: their y are floats, x_rows, norm and swiglu null, lets_next_in is
// not written. x_stride is K.
bool products_take_bf16_input(const device::ExecContext& ctx,
                              std::span<const MatmulParams> products);
// CHECK: they may.
void grouped_matmul_bf16_input(device::ExecContext& ctx, std::span<const MatmulParams> products,
                               const uint16_t* x);

}  // namespace cachalot::ops
