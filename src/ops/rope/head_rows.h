// What becomes of projected heads before others read them, in one op: a norm, the rotation, the
// Hadamard transform, and a snap to few bits, each of which may be left out.
// Source, numerics  ops/norm/rms_norm.h, ops/rope/rope.h, ops/quant/act_quant.h: the bits of those
//         ops one after another. round: each rounds to bf16 where it may.
// Shapes  x [rows, heads, head_dim], in place, row_stride between rows; g [head_dim]. to_bf16
//         [rows, heads, head_dim], contiguous: on a GPU, where head_rows_takes_bf16 says so and
//         `round`, the result goes there instead of into x. from_bf16, likewise: x comes from there
//         instead; the two may be one.
#pragma once

#include <cstdint>

#include "ops/rope/rope.h"

namespace cachalot::ops {

enum class HeadNorm { none, weighted, bf16_steps };
enum class HeadSnap {
  none,
  fp8,  // all but the last rope_dim values, in runs of 64
  fp4,  // all
};

struct HeadRowsParams {
  float* x;
  int64_t rows;
  int64_t row_stride;
  int64_t heads;
  int64_t head_dim;
  HeadNorm norm;
  const float* g;  // weighted
  float eps;
  int64_t rope_dim;
  RopeTable table;
  bool hadamard;
  HeadSnap snap;
  bool round;
  uint16_t* to_bf16 = nullptr;
  const uint16_t* from_bf16 = nullptr;
};
bool head_rows_takes_bf16(const device::ExecContext& ctx, const HeadRowsParams& p);
void head_rows(device::ExecContext& ctx, const HeadRowsParams& p);

}  // namespace cachalot::ops
