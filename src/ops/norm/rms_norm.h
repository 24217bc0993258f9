// RMS norms.
// Source  reference/forward 0.6: y_i = g_i * (x_i * (1 / sqrt(mean(x^2) + eps))); 3.1 for the query
//         heads.
// Shapes  x, y [rows, columns] with strides; g [columns] or null (all ones). y may be x.
// Numerics  fp32; the sum of squares runs in 16 interleaved fma chains (element i in chain i mod
//         16) folded 8+8, 4+4, 2+2, 1+1. 1/sqrt is the IEEE quotient of the IEEE root. round_y: one
//         rounding to bf16 after the product with g.
#pragma once

#include <cstdint>

#include "device/exec_context.h"

namespace cachalot::ops {

struct RmsNormParams {
  const float* x;
  int64_t x_stride;
  const float* g;
  float* y;
  int64_t y_stride;
  int64_t rows;
  int64_t columns;
  float eps;
  bool round_y;
};
void rms_norm(device::ExecContext& ctx, const RmsNormParams& p);

// The gradients of rms_norm at x, also for rms_norm_bf16_steps and round_y, whose roundings they
// pass straight through.
//   r = 1/sqrt(mean(x^2) + eps);  h_i = g_i dy_i;  dx_i += r h_i - x_i r^3 mean(x h);  dg_i += dy_i
//   x_i r, summed over rows
// Shapes  x, dy, dx [rows, columns] with strides; g, dg [columns]; g null (all ones) with dg null;
//         dg null where it is not wanted. dx and dg overlap nothing.
// Numerics  fp32. r as above; the sum of x h in the same 16 fma chains c; b = c / columns * r * r *
//         r, rounded from left to right; dx_i = dx_i + fma(-b, x_i, h_i * r). dg_i = fma(dy_i, x_i
//         * r, dg_i) over rows ascending, from what dg holds: rows in one call or several give the
//           same bits.
struct RmsNormBackwardParams {
  const float* x;
  int64_t x_stride;
  const float* g;
  const float* dy;
  int64_t dy_stride;
  float* dx;
  int64_t dx_stride;
  float* dg;
  int64_t rows;
  int64_t columns;
  float eps;
};
void rms_norm_backward(device::ExecContext& ctx, const RmsNormBackwardParams& p);

// The query heads' weightless norm in bf16 steps (reference/forward 3.1): s_i = bf16(x_i^2), a =
// bf16(mean s), b = bf16(a + eps), g = bf16(1/sqrt(b)), y_i = bf16(x_i * g). x is bf16-valued; g of
// the params is ignored. Same chains for the sum.
void rms_norm_bf16_steps(device::ExecContext& ctx, const RmsNormParams& p);

}  // namespace cachalot::ops
