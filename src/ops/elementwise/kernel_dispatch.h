// How the row-wise ops choose a kernel and spread it over threads. Work is cut by shape alone,
// never by the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "device/exec_context.h"
#include "ops/elementwise/tile.h"

namespace cachalot::ops {

// The best version at or below isa; the AVX-512 one serves both AVX-512 levels.
template <typename Kernel>
Kernel* pick_kernel(device::Isa isa, Kernel* reference, Kernel* avx2, Kernel* avx512) {
  switch (isa) {
    case device::Isa::reference: return reference;
    case device::Isa::avx2: return avx2;
    case device::Isa::avx512:
    case device::Isa::avx512bf16: return avx512;
  }
  return reference;
}

// A task touches about this many values: half a microsecond of work or more, an order above the
// cost of taking a task, and few enough that threads share the rows of a small step evenly.
inline constexpr int64_t kValuesPerTask = int64_t{1} << 11;

// fn(first_row, last_row) over [0, rows).
template <typename Fn>
void for_row_blocks(device::ExecContext& ctx, int64_t rows, int64_t values_per_row, Fn&& fn) {
  const int64_t block = std::max<int64_t>(1, kValuesPerTask / std::max<int64_t>(1, values_per_row));
  ctx.pool->run((rows + block - 1) / block,
                [&](int64_t task, int) { fn(task * block, std::min(rows, (task + 1) * block)); });
}

// fn(Tile) over rows x columns, for ops whose elements do not depend on each other: long rows are
// cut too, at multiples of 16 columns. values_per_element weighs an element (streams of a row,
// experts of a token).
template <typename Fn>
void for_tiles(device::ExecContext& ctx, int64_t rows, int64_t columns, int64_t values_per_element,
               Fn&& fn) {
  const int64_t per_task = std::max<int64_t>(16, kValuesPerTask / values_per_element);
  const int64_t tile_columns = std::min(columns, per_task / 16 * 16);
  if (tile_columns <= 0) return;
  const int64_t tile_rows = std::max<int64_t>(1, per_task / tile_columns);
  const int64_t tiles_across = (columns + tile_columns - 1) / tile_columns;
  const int64_t tiles_down = (rows + tile_rows - 1) / tile_rows;
  ctx.pool->run(tiles_down * tiles_across, [&](int64_t task, int) {
    const int64_t row = task / tiles_across * tile_rows;
    const int64_t column = task % tiles_across * tile_columns;
    fn(Tile{row, std::min(rows, row + tile_rows), column,
            std::min(columns, column + tile_columns)});
  });
}

}  // namespace cachalot::ops
