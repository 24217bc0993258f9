// The experts' activation, and the sum over experts; forward and backward.
// Source  reference/forward 4.2, 4.3; reference/training 7.2.
#pragma once

#include <cstdint>

#include "device/exec_context.h"

namespace cachalot::ops {

// Elements that the clamp changed: gate above the limit, up above it, up below its negative. Exact;
// NaN is none of them.
struct SwigluClampCounts {
  int64_t gate_above = 0;
  int64_t up_above = 0;
  int64_t up_below = 0;
};

// h = silu(min(g, limit)) * clamp(u, -limit, limit) * weight[row], fp32, g / (1 + exp(-g)); one
// rounding to bf16 where round_h.
// Shapes  gate, up, h [rows, columns] contiguous; weight [rows] or null (1). h may be gate. limit
//         <= 0: no clamp.
struct SwigluParams {
  const float* gate;
  const float* up;
  const float* weight;
  int64_t rows;
  int64_t columns;
  float limit;
  bool round_h;
  float* h;
  SwigluClampCounts* clamped = nullptr;  // added to; null: not counted
};
void swiglu(device::ExecContext& ctx, const SwigluParams& p);

// The same of values in bf16 without a weight, h in bf16, on a GPU alone.
// Shapes  gate, up [rows, columns], stride between their rows; h [rows, columns] contiguous.
//         columns and stride are multiples of 8, all are 16-byte aligned.
struct Bf16SwigluParams {
  const uint16_t* gate;
  const uint16_t* up;
  int64_t stride;
  int64_t rows;
  int64_t columns;
  float limit;
  uint16_t* h;
};
void swiglu_bf16(device::ExecContext& ctx, const Bf16SwigluParams& p);

// With gate and up as they were before the clamp, s = 1 / (1 + exp(-g)) and (g, u) the clamped
// pair:
//   d_up += weight d_h g s                     where |up| <= limit
//   d_gate += weight d_h u s (1 + g (1 - s))   where gate <= limit: a clamped element has no
//   gradient d_weight += sum over columns of d_h g s u
// Shapes  as above; d_weight [rows], or null: not wanted, or no weight. Gradients overlap nothing.
// Numerics  fp32, the rounding of h counts as the identity. The sum runs in 16 interleaved fma
//         chains folded 8+8, 4+4, 2+2, 1+1. The bits do not depend on threads, instruction set or
//         the other rows.
struct SwigluBackwardParams {
  const float* gate;
  const float* up;
  const float* weight;
  const float* d_h;
  int64_t rows;
  int64_t columns;
  float limit;
  float* d_gate;
  float* d_up;
  float* d_weight;
};
void swiglu_backward(device::ExecContext& ctx, const SwigluBackwardParams& p);

// out[t] = sum over i = 0..k-1 ascending of y[slots[t*k + i]], then + shared[t]; fp32; one rounding
// where round_out.
// Shapes  y [any, columns]; slots [rows, k] row numbers into y (in ascending expert id); shared
//         [rows, columns] or null. out may be shared: so the gradients of the pairs are added to
//         their token's.
struct MoeCombineParams {
  const float* y;
  const int32_t* slots;
  const float* shared;
  int64_t rows;
  int64_t k;
  int64_t columns;
  bool round_out;
  float* out;
};
void moe_combine(device::ExecContext& ctx, const MoeCombineParams& p);

// d_y[slots[t*k + i]] += d_out[t];  d_shared[t] += d_out[t]. One addition an element: nothing to
// order.
// Shapes  as above; d_shared may be null. slots name every row of y at most once, as the pairs of a
//         dispatch do. (Where the gradient of y only feeds products, matmul's x_rows can read d_out
//         through the pairs' tokens instead.)
struct MoeCombineBackwardParams {
  const float* d_out;
  const int32_t* slots;
  int64_t rows;
  int64_t k;
  int64_t columns;
  float* d_y;
  float* d_shared;
};
void moe_combine_backward(device::ExecContext& ctx, const MoeCombineBackwardParams& p);

}  // namespace cachalot::ops
