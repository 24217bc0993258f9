#include "ops/matmul/matmul_kernels.h"

#include <algorithm>

namespace cachalot::ops {
namespace {

// From this many rows on, totals wait between k blocks in a compact copy: rows of y that are a
// large power of two apart would share a few sets of the caches (N = 1024: 20 percent slower).
constexpr int64_t kCopiedRows = 5;
// Up to this many inputs every kernel visits y once.
constexpr int64_t kSinglePassInputs = 64;

}  // namespace

const MatmulKernels& matmul_kernels(device::Isa isa) {
  switch (isa) {
    case device::Isa::reference: return kMatmulReference;
    case device::Isa::avx2: return kMatmulAvx2;
    case device::Isa::avx512: return kMatmulAvx512;
    case device::Isa::avx512bf16: return kMatmulAvx512Bf16;
  }
  return kMatmulReference;
}

void run_task_on_copy(const MatmulKernels& kernels, PanelTask task, int64_t lanes, float* copy) {
  // By copied strips a k block is one pass; what y holds is quicker to read as a whole, though.
  const bool copies_strips =
      task.format == WeightFormat::f32 && task.m >= kernels.copied_rows && !task.accumulate;
  const int64_t single_pass = copies_strips ? task.k_block : kSinglePassInputs;
  if (lanes == task.width && (task.m < kCopiedRows || task.k <= single_pass)) {
    // A register tile takes a line of a few rows each, which no prefetcher foresees (gradients of
    // 16 rows from memory: 25 percent).
    for (int64_t i = 0; task.accumulate && i < task.m; ++i) {
      for (int64_t lane = 0; lane < lanes; lane += 16)
        __builtin_prefetch(task.y + i * task.y_stride + lane, 1);
    }
    kernels.run(task);
    if (task.round_y)
      kernels.round_rows(task.y, task.y_stride, task.m, lanes, task.y, task.y_stride);
    return;
  }
  constexpr int64_t kStride = PackedWeight::kPanelWidth;
  float* y = task.y;
  const int64_t y_stride = task.y_stride;
  task.y = copy;
  task.y_stride = kStride;
  for (int64_t i = 0; task.accumulate && i < task.m; ++i) {
    std::copy_n(y + i * y_stride, lanes, copy + i * kStride);
    std::fill(copy + i * kStride + lanes, copy + i * kStride + task.width, 0.0f);
  }
  kernels.run(task);
  if (task.round_y) return kernels.round_rows(copy, kStride, task.m, lanes, y, y_stride);
  for (int64_t i = 0; i < task.m; ++i) std::copy_n(copy + i * kStride, lanes, y + i * y_stride);
}

const PanelKernels& panel_kernels(device::Isa isa) { return matmul_kernels(isa).panel; }

}  // namespace cachalot::ops
