#include "ops/moe/swiglu.h"

#include <atomic>

#include "base/check.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/moe/swiglu_kernels.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {

namespace {

// Integers: sums of any order are the same. 32 bits for the counts of a row's piece vectorise, 64
// do not.
void add_clamp_counts(const SwigluParams& p, const Tile& tile) {
  SwigluClampCounts counts;
  for (int64_t row = tile.first_row; row < tile.last_row; ++row) {
    const float* gate = p.gate + row * p.columns;
    const float* up = p.up + row * p.columns;
    int32_t gate_above = 0, up_above = 0, up_below = 0;
    for (int64_t i = tile.first_column; i < tile.last_column; ++i) {
      gate_above += gate[i] > p.limit;
      up_above += up[i] > p.limit;
      up_below += up[i] < -p.limit;
    }
    counts.gate_above += gate_above;
    counts.up_above += up_above;
    counts.up_below += up_below;
  }
  std::atomic_ref(p.clamped->gate_above).fetch_add(counts.gate_above, std::memory_order_relaxed);
  std::atomic_ref(p.clamped->up_above).fetch_add(counts.up_above, std::memory_order_relaxed);
  std::atomic_ref(p.clamped->up_below).fetch_add(counts.up_below, std::memory_order_relaxed);
}

}  // namespace

void swiglu(device::ExecContext& ctx, const SwigluParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.columns > 0);
  if (ctx.gpu != nullptr) return swiglu_cuda(ctx, p);
  SwigluKernel* kernel = pick_kernel(ctx.isa, swiglu_ref, swiglu_avx2, swiglu_avx512);
  for_tiles(ctx, p.rows, p.columns, 4, [&](const Tile& tile) {
    if (p.clamped != nullptr && p.limit > 0) add_clamp_counts(p, tile);  // before h overwrites gate
    kernel(p, tile);
  });
}

void swiglu_bf16(device::ExecContext& ctx, const Bf16SwigluParams& p) {
  CACHALOT_CHECK(ctx.gpu != nullptr && p.columns % 8 == 0 && p.stride % 8 == 0);
  swiglu_bf16_cuda(ctx, p);
}

void swiglu_backward(device::ExecContext& ctx, const SwigluBackwardParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.columns > 0);
  CACHALOT_CHECK(p.weight != nullptr || p.d_weight == nullptr);
  SwigluBackwardKernel* kernel =
      pick_kernel(ctx.isa, swiglu_backward_ref, swiglu_backward_avx2, swiglu_backward_avx512);
  for_row_blocks(ctx, p.rows, 6 * p.columns,
                 [&](int64_t first, int64_t last) { kernel(p, first, last); });
}

void moe_combine(device::ExecContext& ctx, const MoeCombineParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.columns > 0 && p.k >= 0);
  if (ctx.gpu != nullptr) return moe_combine_cuda(ctx, p);
  MoeCombineKernel* kernel =
      pick_kernel(ctx.isa, moe_combine_ref, moe_combine_avx2, moe_combine_avx512);
  for_tiles(ctx, p.rows, p.columns, p.k + 1, [&](const Tile& tile) { kernel(p, tile); });
}

// Nothing but memory traffic, which plain loops saturate.
void moe_combine_backward(device::ExecContext& ctx, const MoeCombineBackwardParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.columns > 0 && p.k >= 0);
  for_tiles(ctx, p.rows, p.columns, p.k + 1, [&](const Tile& tile) {
    const auto add = [&](const float* d_out, float* to) {
      for (int64_t i = tile.first_column; i < tile.last_column; ++i) to[i] += d_out[i];
    };
    for (int64_t row = tile.first_row; row < tile.last_row; ++row) {
      const float* d_out = p.d_out + row * p.columns;
      for (int64_t i = 0; i < p.k; ++i) add(d_out, p.d_y + p.slots[row * p.k + i] * p.columns);
      if (p.d_shared != nullptr) add(d_out, p.d_shared + row * p.columns);
    }
  });
}

}  // namespace cachalot::ops
