#include "ops/rows/rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "base/check.h"
#include "numeric/formats.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

void copy(const float* from, int64_t n, float* to) {
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}

void add(const float* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

// fn(from, n, to) over the elements of rows whose places are from_row(i) and to_row(i).
template <typename FromRow, typename ToRow, typename Fn>
void for_rows(device::ExecContext& ctx, int64_t rows, int64_t columns, FromRow from_row,
              ToRow to_row, Fn fn) {
  CACHALOT_CHECK(rows >= 0 && columns >= 0);
  for_tiles(ctx, rows, columns, 1, [&](const Tile& tile) {
    const int64_t n = tile.last_column - tile.first_column;
    for (int64_t row = tile.first_row; row < tile.last_row; ++row)
      fn(from_row(row) + tile.first_column, n, to_row(row) + tile.first_column);
  });
}

template <typename Index, typename Fn>
void for_gathered(device::ExecContext& ctx, const RowsByIndex<Index>& p, Fn fn) {
  for_rows(
      ctx, p.rows, p.columns, [&](int64_t row) { return p.from + p.index[row] * p.from_stride; },
      [&](int64_t row) { return p.to + row * p.to_stride; }, fn);
}

template <typename Index, typename Fn>
void for_scattered(device::ExecContext& ctx, const RowsByIndex<Index>& p, Fn fn) {
  for_rows(
      ctx, p.rows, p.columns, [&](int64_t row) { return p.from + row * p.from_stride; },
      [&](int64_t row) { return p.to + p.index[row] * p.to_stride; }, fn);
}

}  // namespace

void fill(device::ExecContext& ctx, float* x, int64_t n, float value) {
  for_tiles(ctx, 1, n, 1, [&](const Tile& tile) {
    std::fill(x + tile.first_column, x + tile.last_column, value);
  });
}

void scale(device::ExecContext& ctx, float* x, int64_t n, float factor) {
  if (ctx.gpu != nullptr) return scale_cuda(ctx, x, n, factor);
  for_tiles(ctx, 1, n, 1, [&](const Tile& tile) {
    for (int64_t i = tile.first_column; i < tile.last_column; ++i) x[i] *= factor;
  });
}

void copy_rows(device::ExecContext& ctx, const RowsCopy& p) {
  if (ctx.gpu != nullptr) return copy_rows_cuda(ctx, p);
  for_tiles(ctx, p.rows, p.columns, p.copies, [&](const Tile& tile) {
    const int64_t n = tile.last_column - tile.first_column;
    for (int64_t row = tile.first_row; row < tile.last_row; ++row) {
      const float* from = p.from + row * p.from_stride + tile.first_column;
      float* to = p.to + row * p.to_stride + tile.first_column;
      for (int64_t j = 0; j < p.copies; ++j) copy(from, n, to + j * p.columns);
    }
  });
}

void add_rows(device::ExecContext& ctx, const RowsAdd& p, bool round_x) {
  if (ctx.gpu != nullptr) return add_rows_cuda(ctx, p, round_x);
  for_tiles(ctx, p.rows, p.columns, p.copies, [&](const Tile& tile) {
    const int64_t n = tile.last_column - tile.first_column;
    for (int64_t row = tile.first_row; row < tile.last_row; ++row) {
      const float* y = p.y + row * p.y_stride + tile.first_column;
      for (int64_t j = 0; j < p.copies; ++j) {
        float* x = p.x + row * p.x_stride + j * p.columns + tile.first_column;
        add(y, n, x);
        for (int64_t i = 0; round_x && i < n; ++i) x[i] = numeric::round_to_bf16(x[i]);
      }
    }
  });
}

void add_copies(device::ExecContext& ctx, const RowsAdd& p) {
  for_tiles(ctx, p.rows, p.columns, p.copies, [&](const Tile& tile) {
    const int64_t n = tile.last_column - tile.first_column;
    for (int64_t row = tile.first_row; row < tile.last_row; ++row) {
      float* x = p.x + row * p.x_stride + tile.first_column;
      const float* y = p.y + row * p.y_stride + tile.first_column;
      for (int64_t j = p.copies - 1; j >= 0; --j) add(y + j * p.columns, n, x);
    }
  });
}

template <typename Index>
void gather_rows(device::ExecContext& ctx, const RowsByIndex<Index>& p) {
  if constexpr (std::is_same_v<Index, int64_t>) {
    if (ctx.gpu != nullptr) return gather_rows_cuda(ctx, p);
  }
  for_gathered(ctx, p, copy);
}
template <typename Index>
void gather_add_rows(device::ExecContext& ctx, const RowsByIndex<Index>& p) {
  for_gathered(ctx, p, add);
}
template <typename Index>
void scatter_rows(device::ExecContext& ctx, const RowsByIndex<Index>& p) {
  if constexpr (std::is_same_v<Index, int32_t>) {
    if (ctx.gpu != nullptr) return scatter_rows_cuda(ctx, p);
  }
  for_scattered(ctx, p, copy);
}
template <typename Index>
void scatter_add_rows(device::ExecContext& ctx, const RowsByIndex<Index>& p) {
  for_scattered(ctx, p, add);
}

template void gather_rows(device::ExecContext&, const RowsByIndex<int32_t>&);
template void gather_rows(device::ExecContext&, const RowsByIndex<int64_t>&);
template void gather_add_rows(device::ExecContext&, const RowsByIndex<int32_t>&);
template void gather_add_rows(device::ExecContext&, const RowsByIndex<int64_t>&);
template void scatter_rows(device::ExecContext&, const RowsByIndex<int32_t>&);
template void scatter_rows(device::ExecContext&, const RowsByIndex<int64_t>&);
template void scatter_add_rows(device::ExecContext&, const RowsByIndex<int32_t>&);
template void scatter_add_rows(device::ExecContext&, const RowsByIndex<int64_t>&);

float max_magnitude(device::ExecContext& ctx, const float* x, int64_t n, float so_far) {
  const device::ArenaScope scope(*ctx.arena);
  const int workers = ctx.pool->num_threads();
  auto* largest = ctx.arena->allocate<float>(workers);
  std::fill_n(largest, workers, so_far);
  constexpr int64_t kTaskValues = int64_t{1} << 16;
  ctx.pool->run((n + kTaskValues - 1) / kTaskValues, [&](int64_t task, int worker) {
    const int64_t last = std::min(n, (task + 1) * kTaskValues);
    float of_task = so_far;
    for (int64_t i = task * kTaskValues; i < last; ++i)
      of_task = std::max(of_task, std::fabs(x[i]));  // false for NaN
    largest[worker] = std::max(largest[worker], of_task);
  });
  return *std::max_element(largest, largest + workers);
}

}  // namespace cachalot::ops
