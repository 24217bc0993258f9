// Moves and sums of fp32 rows, in one version: memory binds them.
// Shapes  rows lie `stride` floats apart; what a call writes does not overlap what it reads but for
//         the same elements.
// Numerics  elements do not depend on each other: the bits are those of the plain loop, for any
//         thread count.
// Threads  concurrent calls need distinct ctx.
#pragma once

#include <cstdint>

#include "device/exec_context.h"

namespace cachalot::ops {

// x [n] = value.
void fill(device::ExecContext& ctx, float* x, int64_t n, float value);

// x [n] *= factor.
void scale(device::ExecContext& ctx, float* x, int64_t n, float factor);

// to [rows, copies, columns]: each row of from [rows, columns], `copies` times side by side.
struct RowsCopy {
  const float* from;
  int64_t from_stride;
  int64_t rows;
  int64_t columns;
  float* to;
  int64_t to_stride;
  int64_t copies = 1;
};
void copy_rows(device::ExecContext& ctx, const RowsCopy& p);

// x [rows, copies, columns] += y [rows, columns] for each copy; one rounding to bf16 of each sum
// where round_x.
struct RowsAdd {
  float* x;
  int64_t x_stride;
  int64_t rows;
  int64_t columns;
  const float* y;
  int64_t y_stride;
  int64_t copies = 1;
};
void add_rows(device::ExecContext& ctx, const RowsAdd& p, bool round_x);

// The gradient of both: x [rows, columns] += y [rows, copies, columns], the last copy first.
void add_copies(device::ExecContext& ctx, const RowsAdd& p);

// Rows by a list of their numbers, int32_t or int64_t, in [0, rows of the other side).
template <typename Index>
struct RowsByIndex {
  const float* from;
  int64_t from_stride;
  const Index* index;  // [rows]
  int64_t rows;
  int64_t columns;
  float* to;
  int64_t to_stride;
};
// to[i] = from[index[i]].
template <typename Index>
void gather_rows(device::ExecContext& ctx, const RowsByIndex<Index>& p);
// to[i] += from[index[i]].
template <typename Index>
void gather_add_rows(device::ExecContext& ctx, const RowsByIndex<Index>& p);
// to[index[i]] = from[i]; no number twice.
template <typename Index>
void scatter_rows(device::ExecContext& ctx, const RowsByIndex<Index>& p);
// to[index[i]] += from[i]; no number twice.
template <typename Index>
void scatter_add_rows(device::ExecContext& ctx, const RowsByIndex<Index>& p);

// The largest magnitude of x [n] and `so_far`; NaN counts for nothing.
float max_magnitude(device::ExecContext& ctx, const float* x, int64_t n, float so_far);

}  // namespace cachalot::ops
