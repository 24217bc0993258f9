// y[m, n] = bf16(sum over k of x[m, k] W[n, k]) with one or several fp8 weights, for few rows m, on
// the GPU, in one launch.
// Source  reference/forward 0.5 (LIN8); 3.8 (wo_a: grouped, activations not quantised).
// Shapes  group g has a weight [rows_g, columns] as ops/matmul/streamed_weight.h and y_g [m,
//         rows_g] bf16. x [m, groups * columns] bf16, of which group g reads its own columns; with
//         shared_x [m, columns], which all read. Strides count elements. x and the weights are
//         16-byte aligned, a row of x too. float_rows: x and y are float; what x holds, bf16 can
//         hold. bf16_x, bf16_y: x or y is bf16 all the same, where dense_takes_bf16.
// Numerics  ops/matmul/streamed_product.cuh: the order of sums depends on columns alone. x is
//         quantised inside (ACT8, runs of 128) but in the form mma_bf16.
// Errors  make_dense_product: invalid_argument where the shape cannot run.
// Threads a plan is read-only. launch_dense_product only launches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "device/cuda/device.h"
#include "device/cuda/handles.h"
#include "ops/matmul/launch_order.h"

namespace cachalot::ops {

enum class DenseForm {
  official,      // codes of x and W in f16, fp32 sums
  official_fp8,  // codes in e4m3
  unquantised,   // x in bf16, fp32 sums
};

struct DenseShape {
  DenseForm form;
  int64_t m;
  int64_t rows;     // of all groups, alike but with shared_x; of each but the last 16 n
  int64_t columns;  // of one group
  int64_t groups = 1;
  bool float_rows = false;
  bool shared_x = false;
  bool bf16_x = false;
  bool bf16_y = false;
  bool laid = false;  // the groups' weights are laid (laid_weights.h); of dense_bulk.h alone

  bool has_float_x() const { return float_rows && !bf16_x; }
  bool has_float_y() const { return float_rows && !bf16_y; }
};
inline constexpr int kMaxDenseGroups = 16;

struct DenseGroup {
  const std::byte* weight;
  int64_t rows;
  void* y;
  int64_t y_stride;
  const std::byte* laid = nullptr;  // codes, which follow those of the group before
  const float* laid_scales = nullptr;
};

struct DensePlan {
  DenseShape shape;
  int tokens = 0;  // of m that a block takes at a time
  int stages = 0;
  int in_flight = 0;
  int64_t partial_bytes = 0;
  int64_t smem_bytes = 0;
  int64_t scratch_bytes = 0;
  int grid = 0;
  bool overlaps = false;    // it is one kernel, which may run beside others
  bool makes_norm = false;  // LaunchOrder::norm
  bool makes_swiglu = false;
  void (*launch)(const DensePlan&, const device::cuda::Stream&, const void* x, int64_t x_stride,
                 std::span<const DenseGroup> groups, std::byte* scratch,
                 const LaunchOrder& order) = nullptr;
};

// Whether the form for many rows takes it.
bool dense_takes_bf16(const device::cuda::Device& device, const DenseShape& shape);
Result<DensePlan> make_dense_plan(const device::cuda::Device& device, const DenseShape& shape);

// scratch: plan.scratch_bytes, 16-byte aligned; null where that is 0. Else x is quantised into it
// by a kernel of its own. The weight is read before the kernel before has ended, x, y and scratch
// are not touched.
inline void launch_dense(const DensePlan& plan, const device::cuda::Stream& stream, const void* x,
                         int64_t x_stride, std::span<const DenseGroup> groups, std::byte* scratch,
                         const LaunchOrder& order = {}) {
  plan.launch(plan, stream, x, x_stride, groups, scratch, order);
}
// Of one weight that holds the rows of all groups, and one y.
void launch_dense(const DensePlan& plan, const device::cuda::Stream& stream, const void* x,
                  int64_t x_stride, const std::byte* weight, void* y, int64_t y_stride,
                  std::byte* scratch, const LaunchOrder& order = {});

}  // namespace cachalot::ops
