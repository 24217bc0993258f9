// ops/compressor/entry_rows.h on the GPU: a block has an entry, or a row of the step.
#pragma once

#include "ops/compressor/compressor.cuh"
#include "ops/compressor/entry_rows.h"
#include "ops/compressor/recent.cuh"
#include "ops/elementwise/entry_places.cuh"
#include "ops/quant/row_codec.cuh"
#include "ops/rope/finish_row.cuh"

namespace cachalot::ops {

inline constexpr int kMaxEntryWidth = 512;
inline constexpr int kMaxEntrySlots = 256;  // that an entry pools
inline constexpr int kMaxEntryPairs = 32;   // that are rotated

// Entry `idx` of those that the step completes, by kThreads threads. Waits for the kernels before,
// unless they have ended.
template <int kThreads>
__device__ void complete_entry(const EntryRowsParams& p, const float* frequencies, float factor,
                               int64_t idx, bool have_ended = false) {
  static_assert(kMaxEntrySlots <= kThreads && kMaxEntryPairs <= kThreads);
  __shared__ const float* slot_rows[kMaxEntrySlots];
  __shared__ float x[kMaxEntryWidth];
  __shared__ float cos_row[kMaxEntryPairs], sin_row[kMaxEntryPairs];
  const DeviceEntryPlace place = entry_place(p.sequences, p.ratio, idx);
  const tensor::LayerRows& layer = p.layer_rows[place.sequence];
  const EntrySlots slots(place.entry, p.ratio, p.overlap);
  const int64_t first_position = p.sequences.first_position[place.sequence];
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < slots.count) {
    const tensor::RecentRows rows = tensor::recent_rows(
        p.sequences, place.sequence, tensor::ring_of(layer, p.tail), p.step_rows);
    slot_rows[thread] = reinterpret_cast<const float*>(rows.row(slots.start + thread).data);
  }
  if (thread < p.rope_dim / 2) {
    double s, c;
    sincos(static_cast<double>(static_cast<float>(slots.own) * frequencies[thread]), &s, &c);
    cos_row[thread] = static_cast<float>(c);
    sin_row[thread] = static_cast<float>(s);
  }
  if (!have_ended) tile::wait_for_producers();
  __syncthreads();

  const int width = static_cast<int>(p.width), ratio = static_cast<int>(p.ratio);
  const int columns = p.overlap ? 2 * width : width;
  const auto first_own = static_cast<int>(slots.own - slots.start);
  // The rings' rows have their ape.
  const auto first_bare =
      static_cast<int>(min(max(first_position - slots.start, int64_t{0}), int64_t{slots.count}));
  for (int channel = thread; channel < width; channel += kThreads) {
    const auto column = [&](int i) { return (p.overlap && i >= first_own ? width : 0) + channel; };
    const auto k = [&](int i) { return slot_rows[i][column(i)]; };
    const auto s = [&](int i) {
      const float score = slot_rows[i][columns + column(i)];
      if (i < first_bare) return score;
      const int place = i >= first_own ? i - first_own : i - first_own + ratio;
      return score + __ldg(p.ape + place * columns + column(i));
    };
    const float value = pooled(slots.count, s, k);
    x[channel] = p.round ? tile::round_to_bf16(value) : value;
  }
  HeadRowsParams heads = {};
  heads.head_dim = p.width;
  heads.g = p.g;
  heads.eps = p.eps;
  heads.rope_dim = p.rope_dim;
  heads.hadamard = p.hadamard;
  heads.snap = p.snap;
  heads.round = p.round;
  finish_row<kThreads>(x, heads, cos_row, sin_row, factor);
  const bool is_kv = p.tail == tensor::Recent::tail;
  const int64_t pieces =
      is_kv ? kv_row_pieces(p.kv, p.width, p.rope_dim) : index_row_pieces(p.index, p.width);
  for (int64_t piece = thread / 32; piece < pieces; piece += kThreads / 32) {
    if (is_kv) {
      encode_kv_piece(p.kv, x, p.width, p.rope_dim, piece, layer.entries.row(place.entry));
    } else {
      encode_index_piece(p.index, x, p.width, piece, layer.index_keys.row(place.entry));
    }
  }
}

// Row `row` of the step, by kThreads threads. Waits for the kernels before, unless they have ended.
template <int kThreads>
__device__ __forceinline__ void store_compressor_row(const EntryRowsParams& p, int64_t row,
                                                     bool have_ended = false) {
  const RecentPlace place(p.sequences, p.layer_rows, p.tail, row);
  const int64_t columns = (p.overlap ? 2 : 1) * p.width;
  const float* const from = p.rows + row * 2 * columns;
  const float* const ape = p.ape + place.position % p.ratio * columns;
  if (!have_ended) tile::wait_for_producers();
  if (place.to.data == nullptr) return;
  auto* const to = reinterpret_cast<float*>(place.to.data);
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < columns; i += kThreads) {
    to[i] = from[i];
    to[columns + i] = from[columns + i] + __ldg(ape + i);
  }
}

}  // namespace cachalot::ops
