// Activation roundings: the block quantisers' value effect on fp32 storage, in place or into other
// rows.
// Source  reference/forward 0.4 (ACT8, SIM8, SIM4), 0.8 (Hadamard).
// Shapes  x [rows, row_stride]; the first `columns` of each row are worked on, the rest is left
//         alone.
// Numerics  inputs are bf16-valued; results are exact products of a code and a power of two, hence
//         bf16-valued too. All implementations agree bit for bit (which NaN a NaN is, is open).
// Special NaN stays NaN, in fp4 too, though e2m1 has no code for it; other values of the block
//         follow the maximum of the non-NaN magnitudes. An infinity stays one; its block's scale is
//         capped at 2^127, the largest that is a float.
#pragma once

#include <cstdint>

#include "device/exec_context.h"

namespace cachalot::ops {

struct RowsParams {
  float* x;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
  // Not null: the values are read here, and x is what becomes of them. Row i is from_rows[i] where
  // that is given. Not for hadamard().
  const float* from = nullptr;
  int64_t from_stride = 0;
  const int32_t* from_rows = nullptr;

  float* row(int64_t i) const { return x + i * row_stride; }
  const float* input(int64_t i) const {
    if (from == nullptr) return row(i);
    return from + (from_rows == nullptr ? i : from_rows[i]) * from_stride;
  }
};

// What a block's maximum counts as at least, so that scales stay in range. Gradients shrink with
// the batch: 1e-4 would flush all of them below 2^-32, so theirs lies far under any.
inline constexpr float kFp8AmaxFloor = 1e-4f;
inline constexpr float kFp8GradientFloor = 448 * 0x1p-100f;

// Snap to e4m3 with one power-of-two scale per run of `block` values (128 before a quantised
// linear, 64 in KV rows). A last shorter run is a block of its own.
void simulate_fp8(device::ExecContext& ctx, const RowsParams& p, int64_t block,
                  float amax_floor = kFp8AmaxFloor);

// The same with one scale per `block` x 1 values of a column, rows from the first on: operands of a
// product that sums over rows (reference/training 6.8, wgrad).
void simulate_fp8_columns(device::ExecContext& ctx, const RowsParams& p, int64_t block,
                          float amax_floor = kFp8AmaxFloor);

// Snap to e2m1 with one power-of-two scale per run of 32; floor of the block maximum 6 * 2^-126.
// columns % 32 == 0.
void simulate_fp4(device::ExecContext& ctx, const RowsParams& p);

// y = H x / sqrt(n) per row of n = columns values, n a power of two, Sylvester order, fp32
// butterflies with strides 1, 2, 4..., the factor at the end, one rounding to bf16 where
// round_bf16.
void hadamard(device::ExecContext& ctx, const RowsParams& p, bool round_bf16);

// Each value to bf16, nearest even.
void round_bf16(device::ExecContext& ctx, const RowsParams& p);

}  // namespace cachalot::ops
