#include "ops/quant/act_quant.h"

#include <bit>
#include <cmath>

#include "base/check.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/on_gpu.h"
#include "ops/quant/act_quant_kernels.h"

namespace cachalot::ops {
namespace {

void check_rows(const RowsParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.columns >= 0);
  CACHALOT_CHECK(p.rows <= 1 || p.row_stride >= p.columns);
}

SimulateFp8Kernel* fp8_kernel(const device::ExecContext& ctx) {
  return pick_kernel(ctx.isa, simulate_fp8_ref, simulate_fp8_avx2, simulate_fp8_avx512);
}

}  // namespace

void simulate_fp8(device::ExecContext& ctx, const RowsParams& p, int64_t block, float amax_floor) {
  check_rows(p);
  CACHALOT_CHECK(block > 0);
  if (ctx.gpu != nullptr) return simulate_fp8_cuda(ctx, p, block, amax_floor);
  SimulateFp8Kernel* kernel = fp8_kernel(ctx);
  for_row_blocks(ctx, p.rows, p.columns,
                 [&](int64_t first, int64_t last) { kernel(p, block, amax_floor, first, last); });
}

// Some columns of a block turned into rows of a copy, whose kernel is the one above.
void simulate_fp8_columns(device::ExecContext& ctx, const RowsParams& p, int64_t block,
                          float amax_floor) {
  check_rows(p);
  constexpr int64_t kColumns = 16;
  constexpr int64_t kMaxBlock = 128;
  CACHALOT_CHECK(block > 0 && block <= kMaxBlock);
  SimulateFp8Kernel* kernel = fp8_kernel(ctx);
  const int64_t across = (p.columns + kColumns - 1) / kColumns;
  ctx.pool->run((p.rows + block - 1) / block * across, [&](int64_t task, int) {
    alignas(64) float copy[kColumns * kMaxBlock];
    const int64_t row = task / across * block, column = task % across * kColumns;
    const int64_t rows = std::min(block, p.rows - row),
                  columns = std::min(kColumns, p.columns - column);
    for (int64_t r = 0; r < rows; ++r) {
      const float* x = p.input(row + r) + column;
      for (int64_t c = 0; c < columns; ++c) copy[c * rows + r] = x[c];
    }
    kernel({copy, columns, rows, rows}, block, amax_floor, 0, columns);
    for (int64_t r = 0; r < rows; ++r) {
      float* x = p.row(row + r) + column;
      for (int64_t c = 0; c < columns; ++c) x[c] = copy[c * rows + r];
    }
  });
}

void simulate_fp4(device::ExecContext& ctx, const RowsParams& p) {
  check_rows(p);
  CACHALOT_CHECK(p.columns % 32 == 0);
  if (ctx.gpu != nullptr) return simulate_fp4_cuda(ctx, p);
  RowsKernel* kernel =
      pick_kernel(ctx.isa, simulate_fp4_ref, simulate_fp4_avx2, simulate_fp4_avx512);
  for_row_blocks(ctx, p.rows, p.columns,
                 [&](int64_t first, int64_t last) { kernel(p, first, last); });
}

void hadamard(device::ExecContext& ctx, const RowsParams& p, bool round_bf16) {
  check_rows(p);
  CACHALOT_CHECK(p.from == nullptr);
  CACHALOT_CHECK(p.columns >= 1 && std::has_single_bit(static_cast<uint64_t>(p.columns)));
  if (ctx.gpu != nullptr) return hadamard_cuda(ctx, p, round_bf16);
  HadamardKernel* kernel = pick_kernel(ctx.isa, hadamard_ref, hadamard_avx2, hadamard_avx512);
  const auto factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(p.columns)));
  for_row_blocks(ctx, p.rows, p.columns,
                 [&](int64_t first, int64_t last) { kernel(p, factor, round_bf16, first, last); });
}

void round_bf16(device::ExecContext& ctx, const RowsParams& p) {
  check_rows(p);
  if (ctx.gpu != nullptr) return round_bf16_cuda(ctx, p);
  RowsKernel* kernel = pick_kernel(ctx.isa, round_bf16_ref, round_bf16_avx2, round_bf16_avx512);
  for_row_blocks(ctx, p.rows, p.columns,
                 [&](int64_t first, int64_t last) { kernel(p, first, last); });
}

}  // namespace cachalot::ops
