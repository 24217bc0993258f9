// Token-level compression: pools the projections of r (or 2r, overlapped) tokens into one entry.
// Source  reference/forward 3.3, 3.5.
// Shapes  a row of a position is K then S (S with ape added), fp32: [2, z*h], z = 2 when overlap,
//         else 1; its RowLayout is {2*z*h*4, 0}. Entry e covers positions e*r .. e*r + r - 1;
//         overlapped, its slots are positions e*r - r .. e*r + r - 1: the earlier r give channels
//         [0, h), its own r channels [h, 2h); positions below 0 are absent (S = -inf). out [entries
//         that the step completes, h], sequence after sequence; Sequences::num_entries.
// Numerics  per channel: m = max S; p = exp(S - m); c = sum p K / sum p, slots ascending, fp32,
//         sums by fma from 0. The kernels' own exp (ops/elementwise/exp.h) in every implementation:
//         bits agree.
#pragma once

#include <cstdint>

#include "device/exec_context.h"
#include "tensor/rows.h"

namespace cachalot::ops {

struct CompressParams {
  tensor::Sequences sequences;
  const tensor::LayerRows* layer_rows;
  tensor::Recent tail;          // tail or index_tail: K, S rows before the step
  tensor::RowBlocks step_rows;  // K, S rows of the step
  int64_t ratio;
  bool overlap;
  int64_t width;  // h
  float* out;
};
void compress(device::ExecContext& ctx, const CompressParams& p);

// S += ape of the row's position.
// Shapes  rows [rows, 2, columns]: K, then S; ape [ratio, columns].
struct PositionalBiasParams {
  float* rows;
  tensor::Sequences sequences;
  int64_t ratio;
  int64_t columns;  // z*h
  const float* ape;
};
void add_positional_bias(device::ExecContext& ctx, const PositionalBiasParams& p);

// The first position of each entry that the step completes: where it is rotated (reference/forward
// 3.3). positions [Sequences::num_entries(ratio)].
void entry_positions(device::ExecContext& ctx, const tensor::Sequences& sequences, int64_t ratio,
                     int64_t* positions);

// Copies each sequence's last rows of the step into its ring, as many as that holds: what a later
// step needs. A null ring keeps nothing.
struct StoreRecentParams {
  tensor::Sequences sequences;
  const tensor::LayerRows* layer_rows;
  tensor::Recent kind;
  tensor::RowBlocks step_rows;
};
void store_recent_rows(device::ExecContext& ctx, const StoreRecentParams& p);

}  // namespace cachalot::ops
