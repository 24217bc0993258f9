#include "ops/matmul/matmul_plan.h"

#include <fmt/format.h>

#include <algorithm>

namespace cachalot::ops {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows that share one decoded tile: enough to make decoding cheap (2 percent at 192 rows), few
// enough that x's rows of one k block (192 x 256 floats: 192 KB) stay in a 512 KB second-level
// cache beside the tile.
constexpr int64_t kMaxRows = 192;
// Weights that need no decoding: fewer rows where inputs are many, so that x's of a block stay in a
// 1 MB cache over all passes.
constexpr int64_t kLeastRows = 48;
constexpr int64_t kCachedBytes = int64_t{768} << 10;
constexpr int64_t kRowTile = 6;  // rows of the register tile
// Inputs of a strip that is decoded at a time: its floats and x's of a few row tiles share a
// first-level cache of 32 KB.
constexpr int64_t kInputs = 256, kCodedInputs = 128;
// Tasks per thread that even out their finishing times.
constexpr int64_t kTasksPerThread = 6;
// Fewer rows of a thread would decode too much for themselves.
constexpr int64_t kLeastRowsOfAThread = 16;

int64_t weight_bytes(const MatmulProblem& p) {
  switch (p.format) {
    case WeightFormat::f32: return p.n * p.k * 4;
    case WeightFormat::bf16: return p.n * p.k * 2;
    case WeightFormat::fp8: return p.n * p.k;
    case WeightFormat::fp4: return p.n * p.k / 2;
  }
  return 0;
}

// Threads that keep their rows from op to op pass nothing to each other, and read every weight.
bool is_by_rows(const MatmulProblem& p) {
  return p.num_threads > 1 && p.m >= kLeastRowsOfAThread * p.num_threads &&
         weight_bytes(p) <= p.m * (p.n + p.k) * 4;
}

}  // namespace

MatmulPlan plan_matmul(const MatmulProblem& p) {
  const int64_t panels = ceil_div(p.n, PackedWeight::kPanelWidth);
  const bool direct = p.format == WeightFormat::f32 || p.format == WeightFormat::bf16;
  const bool pairs = p.math == MatmulMath::bf16 && p.isa == device::Isa::avx512bf16;
  const int64_t row_bytes = p.k * (pairs ? 2 : 4);
  const int64_t most =
      direct && p.k > 0
          ? std::clamp(kCachedBytes / row_bytes / kRowTile * kRowTile, kLeastRows, kMaxRows)
          : kMaxRows;
  const int64_t k_block = direct ? kInputs : kCodedInputs;
  int64_t blocks = std::max<int64_t>(1, ceil_div(p.m, most));
  if (is_by_rows(p)) {
    blocks = ceil_div(blocks, p.num_threads) * p.num_threads;
    return {ceil_div(p.m, blocks), k_block, true};
  }
  const int64_t wanted = p.num_threads == 1 ? 1 : kTasksPerThread * p.num_threads;
  if (panels * blocks + p.panels_beside < wanted) {
    blocks = std::max(
        blocks, std::min(ceil_div(wanted, panels + p.panels_beside), ceil_div(p.m, kRowTile)));
  }
  return {ceil_div(std::max<int64_t>(p.m, 1), blocks), k_block};
}

std::string to_string(const MatmulProblem& p) {
  return fmt::format("matmul m={} n={} k={} weights={} math={} isa={} threads={} beside={}", p.m,
                     p.n, p.k, weight_format_name(p.format),
                     p.math == MatmulMath::f32 ? "f32" : "bf16", device::isa_name(p.isa),
                     p.num_threads, p.panels_beside);
}

std::string to_string(const MatmulPlan& plan) {
  return fmt::format("m_block={} k_block={}{}", plan.m_block, plan.k_block,
                     plan.by_rows ? " by rows" : "");
}

}  // namespace cachalot::ops
