// Data movement and elementwise ops, recorded. Roundings pass gradients unchanged
// (straight-through).
#pragma once

#include <span>

#include "autograd/tape.h"
#include "ops/quant/act_quant.h"
#include "ops/rows/rows.h"

namespace cachalot::autograd {

void copy(Context ctx, const ops::RowsCopy& p);

void add(Context ctx, const ops::RowsAdd& p, bool round_x);
void add(Context ctx, float* x, const float* y, int64_t n, bool round_x);

// out[i] = x[rows[i]], rows of `columns` floats; no row twice.
void gather_rows(Context ctx, const float* x, std::span<const int64_t> rows, int64_t columns,
                 float* out);
// out[to[i]] = x[i], no place twice; `to` stays until backward.
void scatter(Context ctx, const float* x, const int32_t* to, int64_t n, float* out);

// x *= factor, in place.
void scale(Context ctx, float* x, int64_t n, float factor);

// ops::hadamard, which is its own transpose.
void hadamard(Context ctx, const ops::RowsParams& p, bool round_x);

// The roundings of ops/quant/act_quant.h, in place or into other rows (p.from, without from_rows).
void simulate_fp8(Context ctx, const ops::RowsParams& p, int64_t block);
void simulate_fp4(Context ctx, const ops::RowsParams& p);
void round_bf16(Context ctx, const ops::RowsParams& p);

}  // namespace cachalot::autograd
