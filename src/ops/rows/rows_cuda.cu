#include "ops/elementwise/element_kernel.cuh"
#include "ops/on_gpu.h"
#include "ops/rows/rows.h"
#include "tile/convert.cuh"

namespace cachalot::ops {
namespace {

struct Scale {
  float* x;
  float factor;
  __device__ void operator()(int64_t, int64_t column) const { x[column] *= factor; }
};

struct CopyRows {
  RowsCopy p;
  __device__ void operator()(int64_t row, int64_t column) const {
    const float value = p.from[row * p.from_stride + column];
    float* to = p.to + row * p.to_stride + column;
    for (int64_t j = 0; j < p.copies; ++j) to[j * p.columns] = value;
  }
};

struct AddRows {
  RowsAdd p;
  bool round_x;
  __device__ void operator()(int64_t row, int64_t column) const {
    const float y = p.y[row * p.y_stride + column];
    float* x = p.x + row * p.x_stride + column;
    for (int64_t j = 0; j < p.copies; ++j) {
      const float sum = x[j * p.columns] + y;
      x[j * p.columns] = round_x ? tile::round_to_bf16(sum) : sum;
    }
  }
};

struct GatherRows {
  RowsByIndex<int64_t> p;
  __device__ void operator()(int64_t row, int64_t column) const {
    p.to[row * p.to_stride + column] = p.from[p.index[row] * p.from_stride + column];
  }
};

struct ScatterRows {
  RowsByIndex<int32_t> p;
  __device__ void operator()(int64_t row, int64_t column) const {
    p.to[static_cast<int64_t>(p.index[row]) * p.to_stride + column] =
        p.from[row * p.from_stride + column];
  }
};

}  // namespace

void scale_cuda(device::ExecContext& ctx, float* x, int64_t n, float factor) {
  launch_elements(ctx, 1, n, Scale{x, factor});
}

void copy_rows_cuda(device::ExecContext& ctx, const RowsCopy& p) {
  launch_elements(ctx, p.rows, p.columns, CopyRows{p});
}

void add_rows_cuda(device::ExecContext& ctx, const RowsAdd& p, bool round_x) {
  launch_elements(ctx, p.rows, p.columns, AddRows{p, round_x});
}

void gather_rows_cuda(device::ExecContext& ctx, const RowsByIndex<int64_t>& p) {
  GatherRows gather{p};
  gather.p.index = ctx.gpu->on_device(p.index);
  launch_elements(ctx, p.rows, p.columns, gather);
}

void scatter_rows_cuda(device::ExecContext& ctx, const RowsByIndex<int32_t>& p) {
  launch_elements(ctx, p.rows, p.columns, ScatterRows{p});
}

}  // namespace cachalot::ops
