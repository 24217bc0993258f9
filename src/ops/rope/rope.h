// Rotary embedding, interleaved pairs (2i, 2i+1), on the last rope_dim values of a head.
// Source  reference/forward 0.7; golden tables in 12.
#pragma once

#include <cstdint>
#include <vector>

#include "device/exec_context.h"

namespace cachalot::ops {

struct YarnParams {  // factor 1 = off
  double factor = 1;
  double original_max_position_embeddings = 65536;
  double beta_fast = 32;
  double beta_slow = 1;
};

// rope_dim / 2 frequencies in fp32.
std::vector<float> rope_frequencies(int64_t rope_dim, double theta, const YarnParams& yarn);

// cos and sin of fp32(position) * frequency, that product rounded once to fp32; the functions are
// evaluated in double and rounded.
// Shapes  positions [n]; cos, sin [n, frequencies].
struct RopeTable {
  const float* cos;
  const float* sin;
};
RopeTable rope_table(device::ExecContext& ctx, const std::vector<float>& frequencies,
                     const int64_t* positions, int64_t n);  // allocated from ctx.arena

// Rotates in place; inverse rotates by the negative angle. Row t uses table row t for all its
// heads.
// Shapes  x [rows, heads, head_dim], row_stride between rows. fp32, then one rounding to bf16 where
//         round_x: x'[2i] = x[2i] * c - x[2i+1] * s as fma(x[2i], c, -(x[2i+1] * s)); x'[2i+1] =
//         fma(x[2i], s, x[2i+1] * c).
struct RopeParams {
  float* x;
  int64_t rows;
  int64_t row_stride;
  int64_t heads;
  int64_t head_dim;
  int64_t rope_dim;
  RopeTable table;
  bool inverse;
  bool round_x;
};
void rope(device::ExecContext& ctx, const RopeParams& p);

}  // namespace cachalot::ops
