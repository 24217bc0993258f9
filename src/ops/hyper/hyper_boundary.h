// What lies between two sublayers' bodies in one op, on a GPU alone: hyper_post of the one, then
// the mapping, hyper_split and hyper_pre of the next, and its norm; or the head's collapse and its
// norm.
// Source, numerics  ops/hyper/hyper_boundary_cuda.h: the values of those ops but for the order of
//         three sums.
#pragma once

#include <cstdint>

#include "device/exec_context.h"
#include "ops/matmul/packed_weight.h"
#include "ops/moe/expert_sum.h"

namespace cachalot::ops {

inline constexpr int64_t kMaxBoundaryWidth = 8192;
inline constexpr int64_t kMaxSummedRows = 16;  // more are faster summed before
// Of n streams of d channels.
inline bool hyper_boundary_fits(int64_t n, int64_t d) {
  return n == 4 && d % 32 == 0 && d <= kMaxBoundaryWidth;
}

// Rows are contiguous. y holds values of bf16.
struct HyperBoundaryRows {
  int64_t rows;
  int64_t d;
  uint16_t* streams;       // [rows, 4, d] in bf16
  const float* y;          // [rows, d], a sublayer's output; null: the streams stay as they are
  const PackedWeight* fn;  // f32, [24, 4 d]; of the head [4, 4 d]
  const float* base;
  const float* scale;
  const float* norm;  // [d]
  float* post;        // [rows, 4]: what y was mixed with, then the next one's; of the head null
  float* comb;        // [rows, 4, 4], likewise
  float* logits;      // [rows, 4, 4]: of the next comb, for hyper_comb; null: comb is made here
  float* out;         // [rows, d], values of bf16; null: see out_bf16
  int64_t sinkhorn_iters;
  float hc_eps;
  float rms_norm_eps;
  const ExpertSum* sum = nullptr;    // makes y, which is then null: of up to kMaxSummedRows rows
  const uint16_t* y_bf16 = nullptr;  // y in bf16 instead of it
  uint16_t* out_bf16 = nullptr;      // out in bf16 instead of it
  // Becomes true where the next op, if it waits for nothing that this one does or reads and touches
  // nothing of its arrays, may run beside it: of very many rows, which leave room.
  bool* lets_next_in = nullptr;
};
void hyper_boundary(device::ExecContext& ctx, const HyperBoundaryRows& p);

// The streams that the first boundary finds, of fp32 rows with values of bf16.
struct BoundaryStreams {
  const float* from;
  int64_t from_stride;   // a multiple of 4, as columns
  const int64_t* index;  // [rows], of from's rows; null: all in turn
  int64_t rows;
  int64_t columns;
  int64_t copies;  // of a row, side by side
  uint16_t* to;    // [rows, copies, columns]
};
void boundary_streams(device::ExecContext& ctx, const BoundaryStreams& p);

// hyper_post of the last sublayer, which no boundary follows, with the bits of
// ops/hyper/hyper_connection.h.
struct LastStreams {
  const uint16_t* streams;  // what follows is as in HyperBoundaryRows
  const float* y;
  const float* post;
  const float* comb;
  int64_t rows;
  int64_t d;
  float* out;  // [rows, 4, d]
};
void last_streams(device::ExecContext& ctx, const LastStreams& p);

// comb of its logits: an op of ops/rows/together.h, so that what comes next need not wait for it.
struct HyperCombParams {
  const float* logits;  // [rows, 4, 4]
  float* comb;          // likewise
  int64_t rows;
  int64_t sinkhorn_iters;
  float hc_eps;
};

}  // namespace cachalot::ops
