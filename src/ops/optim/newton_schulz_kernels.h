// The tiles of newton_schulz.h and the layout that they share: a matrix of `rows` rows is cut into
// panels of up to 64 columns, each [rows][width] and contiguous. The last panel is 16, 32, 48 or 64
// wide; columns beyond the matrix are zeros. In this layout all three products read both operands
// as they lie, so nothing is packed or transposed between them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/optim/newton_schulz.h"

namespace cachalot::ops {

inline constexpr int64_t kNsTile = 64;

// Internal linkage: code built for one instruction set may not share inline functions with other
// files.
namespace {

[[maybe_unused]] int64_t ns_panels(int64_t columns) { return (columns + kNsTile - 1) / kNsTile; }
[[maybe_unused]] int64_t ns_panel_width(int64_t columns, int64_t panel) {
  const int64_t left = columns - panel * kNsTile;
  return left >= kNsTile ? kNsTile : (left + 15) / 16 * 16;
}
[[maybe_unused]] int64_t ns_padded(int64_t columns) { return (columns + 15) / 16 * 16; }

}  // namespace

// out = x^T x, or fma(c, x^T x, b * x) where `combines` (x is then symmetric), for rows of panel i
// and columns of panel j >= i, and the mirror image of this tile. x [k, n], out [n, n] in panels.
struct NsGramTile {
  const float* x;
  int64_t k, n;
  int64_t i, j;
  bool combines;
  float b, c;
  float* out;
  bool round;
};

// out = a z + z s for rows [64 block, 64 block + 64) and the columns of panel j. z, out [m, n], s
// [n, n] symmetric.
struct NsApplyTile {
  const float* z;
  const float* s;
  int64_t m, n;
  int64_t block, j;
  float a;
  bool round;
  float* out;
};

using NsGramKernel = void(const NsGramTile& t);
using NsApplyKernel = void(const NsApplyTile& t);
NsGramKernel ns_gram_avx2, ns_gram_avx512;
NsApplyKernel ns_apply_avx2, ns_apply_avx512;

// Sum of squares of up to 64 x 64 values, in the order of newton_schulz.h.
double ns_sum_squares(const float* z, int64_t stride, int64_t rows, int64_t columns);

struct NsMatrix {
  int64_t rows, columns;
  const float* u;
  float* out;
  bool round_operands;
};

// One matrix on the calling thread, in scratch of ns_scratch_bytes; for callers whose tasks are
// whole matrices.
int64_t ns_scratch_bytes(device::Isa isa, int64_t rows, int64_t columns);
void ns_run_here(device::Isa isa, const NsMatrix& matrix, std::byte* scratch);
// One matrix cut into tiles, three barriers a step.
void ns_run_on_pool(device::ExecContext& ctx, const NsMatrix& matrix);
// Which of the two for a matrix among others that take total_flops together. Never changes a bit.
bool ns_takes_pool(int64_t rows, int64_t columns, double total_flops, int num_threads);

// The definition, on the calling thread. scratch: ns_ref_scratch_floats(rows, columns) floats.
int64_t ns_ref_scratch_floats(int64_t rows, int64_t columns);
void newton_schulz_ref(const NsMatrix& matrix, float* scratch);

}  // namespace cachalot::ops
