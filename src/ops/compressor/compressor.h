// Token-level compression: pools the projections of r (or 2r, overlapped) tokens into one entry.
// Source  reference/forward 3.3, 3.5.
// Shapes  a row of a position is K then S (S with ape added), fp32: [2, z*h], z = 2 when overlap,
//         else 1; its RowLayout is {2*z*h*4, 0}. Entry e covers positions e*r .. e*r + r - 1;
//         overlapped, its slots are positions e*r - r .. e*r + r - 1: the earlier r give channels
//         [0, h), its own r channels [h, 2h); positions below 0 are absent (S = -inf). out
//         [last_entry - first_entry, h].
// Numerics  per channel: m = max S; p = exp(S - m); c = sum p K / sum p, slots ascending, fp32,
//         sums by fma from 0. The kernels' own exp (ops/elementwise/exp.h) in every implementation:
//         bits agree.
#pragma once

#include <cstdint>

#include "device/exec_context.h"
#include "tensor/rows.h"

namespace cachalot::ops {

struct CompressParams {
  tensor::RecentRows rows;  // K, S rows of the chunk and, before it, of the ring
  int64_t ratio;
  bool overlap;
  int64_t width;  // h
  // entries [first_entry, last_entry) are made; all their positions are present
  int64_t first_entry;
  int64_t last_entry;
  float* out;
};
void compress(device::ExecContext& ctx, const CompressParams& p);

// Copies the chunk's last rows into the ring, as many as it holds: what a later chunk needs.
// Shapes  chunk rows [num_tokens], position first_position + i.
void store_recent_rows(const tensor::RecentRows& rows, int64_t num_tokens);

}  // namespace cachalot::ops
