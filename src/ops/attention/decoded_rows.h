// Cached rows as floats, padded with zeros to whole vectors, as the kernels of the gradients read
// them. A training step decodes what a call sees once: some thousand rows that every query meets.
#pragma once

#include <algorithm>

#include "device/exec_context.h"
#include "tensor/rows.h"

namespace cachalot::ops {

// Row `first` and those after it; memory of an arena.
struct DecodedRows {
  const float* base = nullptr;
  int64_t first = 0;
  int64_t stride = 0;

  const std::byte* row(int64_t idx) const {
    return reinterpret_cast<const std::byte*>(base + (idx - first) * stride);
  }
};

// Rows [first, last) of RowBlocks or RecentRows. decode(RowRef, float*) fills `dim` floats.
template <typename Rows, typename Decode>
DecodedRows decode_rows(device::ExecContext& ctx, const Rows& rows, int64_t first, int64_t last,
                        int64_t dim, int64_t padded_dim, const Decode& decode) {
  constexpr int64_t kTaskRows = 16;
  // A cache line more than the row: rows a power of two apart would share a few cache sets.
  const int64_t stride = padded_dim + 16;
  float* base = ctx.arena->allocate<float>((last - first) * stride);
  ctx.pool->run((last - first + kTaskRows - 1) / kTaskRows, [&](int64_t task, int) {
    const int64_t begin = first + task * kTaskRows;
    for (int64_t i = begin; i < std::min(last, begin + kTaskRows); ++i) {
      float* x = base + (i - first) * stride;
      decode(rows.row(i), x);
      std::fill(x + dim, x + padded_dim, 0.0f);
    }
  });
  return {base, first, stride};
}

}  // namespace cachalot::ops
