#include "base/check.h"
#include "device/cuda/cuda_gpu.h"
#include "device/cuda/launch.cuh"
#include "ops/matmul/packed_product.cuh"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

constexpr int kLanes = static_cast<int>(PackedWeight::kPanelWidth);

struct Rows {
  const float* x;
  int64_t m;
  int64_t x_stride;
  const int32_t* x_rows;
  float* y;
  int64_t y_stride;
  int64_t chain_inputs;
  bool round_y;
};

// A block takes a panel and kRows rows.
template <WeightFormat kFormat, bool kBf16, int kRows>
__global__ void __launch_bounds__(kLanes) product_kernel(packed::Weight w, Rows rows) {
  const int64_t row = int64_t{blockIdx.x} * kLanes + threadIdx.x;
  if (row >= w.rows) return;
  const int64_t first = int64_t{blockIdx.y} * kRows;
  const float* x[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t i = min(first + r, rows.m - 1);  // the last again: its output is not written
    x[r] = rows.x + (rows.x_rows != nullptr ? rows.x_rows[i] : i) * rows.x_stride;
  }
  float y[kRows];
  packed::outputs<kFormat, kBf16, kRows>(w, row, x, rows.chain_inputs, y);
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (first + r < rows.m)
      rows.y[(first + r) * rows.y_stride + row] = rows.round_y ? tile::round_to_bf16(y[r]) : y[r];
  }
}

template <WeightFormat kFormat, bool kBf16, int kRows>
void launch_product(device::ExecContext& ctx, const packed::Weight& w, Rows rows) {
  constexpr int64_t kMaxGridRows = 65535 * kRows;
  while (rows.m > 0) {
    Rows part = rows;
    part.m = min(rows.m, kMaxGridRows);
    const dim3 grid(static_cast<unsigned>((w.rows + kLanes - 1) / kLanes),
                    static_cast<unsigned>((part.m + kRows - 1) / kRows));
    device::cuda::launch(device::cuda::stream_of(ctx), {grid, kLanes, 0, device::cuda::Edge::full},
                         product_kernel<kFormat, kBf16, kRows>, w, part);
    rows.m -= part.m;
    rows.y += part.m * rows.y_stride;
    if (rows.x_rows != nullptr) {
      rows.x_rows += part.m;
    } else {
      rows.x += part.m * rows.x_stride;
    }
  }
}

}  // namespace

void matmul_cuda(device::ExecContext& ctx, const MatmulParams& p) {
  CACHALOT_CHECK(!p.accumulate);  // training's
  const packed::Weight w = packed::weight_of(*p.w);
  const Rows rows{p.x, p.m, p.x_stride, p.x_rows, p.y, p.y_stride, p.chain_inputs, p.round_y};
  packed::with_format(p.w->format(), p.math, [&]<WeightFormat kFormat, bool kBf16>() {
    if (p.m < 16) {
      launch_product<kFormat, kBf16, 1>(ctx, w, rows);
    } else {
      launch_product<kFormat, kBf16, 4>(ctx, w, rows);
    }
  });
}

}  // namespace cachalot::ops
