// ops/compressor/entry_rows.h on the GPU: a group of threads has an entry, or a row of the step.
#pragma once

#include "ops/compressor/compressor.cuh"
#include "ops/compressor/entry_rows.h"
#include "ops/compressor/recent.cuh"
#include "ops/elementwise/entry_places.cuh"
#include "ops/quant/row_codec.cuh"
#include "ops/rope/finish_row.cuh"

namespace cachalot::ops {

// A KV row by a group.
template <typename Group>
__device__ __forceinline__ void encode_row(tensor::KvFormat format, const float* x,
                                           int64_t head_dim, int64_t rope_dim, tensor::RowRef to) {
  const int64_t pieces = kv_row_pieces(format, head_dim, rope_dim);
#pragma unroll 1
  for (int64_t piece = Group::thread() / 32; piece < pieces; piece += Group::kCount / 32)
    encode_kv_piece(format, x, head_dim, rope_dim, piece, to);
}

inline constexpr int kMaxEntryWidth = 512;
inline constexpr int kMaxEntrySlots = 128;  // that an entry pools
inline constexpr int kFewEntrySlots = 8;
inline constexpr int kMaxEntryPairs = 32;  // that are rotated

// A slot's K, which its S follows `columns` later, and what is to be added to S: null where the
// row, which is a ring's, has it already.
struct EntrySlot {
  const float* k;
  const float* ape;
};
template <int kSlots>
struct EntryMemory {  // shared
  EntrySlot slots[kSlots];
  float x[kMaxEntryWidth];
  float cos_row[kMaxEntryPairs], sin_row[kMaxEntryPairs];
};

// An entry's channels (compressor.cuh has the definition): a thread has kChannels of them at once
// and kSlots of the slots, so that many loads are under way. Where these are not all, kParts lanes
// of a warp share a channel, the first having the first slots: each goes on with the sums of the
// one before.
template <typename Group, int kChannels, int kSlots, int kParts>
__device__ __forceinline__ void pool_slots(const EntrySlot* slots, int count, int width,
                                           int columns, bool round, float* x) {
  constexpr int kLanes = 32 / kParts;
  constexpr int kStride = Group::kCount / kParts;
  const int lane = static_cast<int>(threadIdx.x) % 32, part = lane / kLanes;
  const int own = Group::thread() / 32 * kLanes + lane % kLanes;
  slots += part * kSlots;
  const int own_count = count - part * kSlots;
#pragma unroll 1
  for (int first = own; first < width + own; first += kChannels * kStride) {
    float weight[kChannels][kSlots], k[kChannels][kSlots];
    const auto each_value = [&](const auto& run) {
#pragma unroll
      for (int i = 0; i < kSlots; ++i) {
        const EntrySlot slot = slots[i];
        __builtin_assume(__isGlobal(slot.k));
#pragma unroll
        for (int c = 0; c < kChannels; ++c) run(slot, c, i, min(first + c * kStride, width - 1));
      }
    };
    each_value([&](const EntrySlot& slot, int c, int i, int channel) {
      const float score = slot.k[columns + channel];
      weight[c][i] = slot.ape != nullptr ? score + __ldg(slot.ape + channel) : score;
    });
    each_value(
        [&](const EntrySlot& slot, int c, int i, int channel) { k[c][i] = slot.k[channel]; });
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      float largest = __uint_as_float(0xFF800000u);
#pragma unroll
      for (const float score : weight[c]) largest = score > largest ? score : largest;
#pragma unroll
      for (int distance = kLanes; distance < 32; distance *= 2) {
        const float other = __shfl_xor_sync(kWarp, largest, distance);
        largest = other > largest ? other : largest;
      }
#pragma unroll
      for (float& each : weight[c]) each = exp_f32_device(each - largest);
      float sum = 0, weighted = 0;
#pragma unroll
      for (int having = 0; having < kParts; ++having) {
        if (having > 0) {
          sum = __shfl_up_sync(kWarp, sum, kLanes);
          weighted = __shfl_up_sync(kWarp, weighted, kLanes);
        }
#pragma unroll
        for (int i = 0; i < kSlots; ++i) {
          if (i >= own_count) continue;
          sum += weight[c][i];
          weighted = fmaf(weight[c][i], k[c][i], weighted);
        }
      }
      const int channel = first + c * kStride;
      if (part < kParts - 1 || channel >= width) continue;
      const float value = weighted / sum;
      x[channel] = round ? tile::round_to_bf16(value) : value;
    }
  }
}

// Entry `idx` of those that the step completes, of up to kSlots slots, by a group. Waits for the
// kernels before, unless they have ended.
template <typename Group, int kSlots>
__device__ void complete_entry(const EntryRowsParams& p, const float* frequencies, float factor,
                               int64_t idx, EntryMemory<kSlots>& memory, bool have_ended = false) {
  static_assert(kSlots <= Group::kCount && kMaxEntryPairs <= Group::kCount);
  const DeviceEntryPlace place = entry_place(p.sequences, p.ratio, idx);
  const tensor::LayerRows& layer = p.layer_rows[place.sequence];
  const EntrySlots slots(place.entry, p.ratio, p.overlap);
  const int64_t first_position = p.sequences.first_position[place.sequence];
  const int width = static_cast<int>(p.width);
  const int columns = p.overlap ? 2 * width : width;
  const int thread = Group::thread();
  if (thread < kSlots) {  // those past the last as the last
    const tensor::RecentRows rows = tensor::recent_rows(
        p.sequences, place.sequence, tensor::ring_of(layer, p.tail), p.step_rows);
    const int64_t position = slots.start + min(thread, slots.count - 1);
    const int own = static_cast<int>(position - slots.own);  // below 0: of the entry before
    const int first = p.overlap && own >= 0 ? width : 0;     // column
    const int64_t place_in_entry = own >= 0 ? own : own + p.ratio;
    memory.slots[thread] = {
        reinterpret_cast<const float*>(rows.row(position).data) + first,
        position < first_position ? nullptr : p.ape + place_in_entry * columns + first};
  }
  if (thread < p.rope_dim / 2) {
    double s, c;
    sincos(static_cast<double>(static_cast<float>(slots.own) * frequencies[thread]), &s, &c);
    memory.cos_row[thread] = static_cast<float>(c);
    memory.sin_row[thread] = static_cast<float>(s);
  }
  if (!have_ended) tile::wait_for_producers();
  Group::sync();

  float* const x = memory.x;
  if constexpr (Group::kCount == 32) {
    static_assert(kSlots == kFewEntrySlots);
    pool_slots<Group, 2, kSlots, 1>(memory.slots, slots.count, width, columns, p.round, x);
  } else if (slots.count <= kFewEntrySlots) {
    pool_slots<Group, 2, kFewEntrySlots, 1>(memory.slots, slots.count, width, columns, p.round, x);
  } else {
    pool_slots<Group, 2, kSlots / 8, 8>(memory.slots, slots.count, width, columns, p.round, x);
  }
  HeadRowsParams heads = {};
  heads.head_dim = p.width;
  heads.g = p.g;
  heads.eps = p.eps;
  heads.rope_dim = p.rope_dim;
  heads.hadamard = p.hadamard;
  heads.snap = p.snap;
  heads.round = p.round;
  finish_row<Group>(x, heads, memory.cos_row, memory.sin_row, factor);
  if (p.tail == tensor::Recent::tail) {
    encode_row<Group>(p.kv, x, p.width, p.rope_dim, layer.entries.row(place.entry));
    return;
  }
  const tensor::RowRef to = layer.index_keys.row(place.entry);
  const int64_t pieces = index_row_pieces(p.index, p.width);
#pragma unroll 1
  for (int64_t piece = thread / 32; piece < pieces; piece += Group::kCount / 32)
    encode_index_piece(p.index, x, p.width, piece, to);
}

// Row `row` of the step, by a group. Waits for the kernels before, unless they have ended.
template <typename Group>
__device__ __forceinline__ void store_compressor_row(const EntryRowsParams& p, int64_t row,
                                                     bool have_ended = false) {
  const RecentPlace place(p.sequences, p.layer_rows, p.tail, row);
  const int64_t columns = (p.overlap ? 2 : 1) * p.width;
  const float* const from = p.rows + row * 2 * columns;
  const float* const ape = p.ape + place.position % p.ratio * columns;
  if (!have_ended) tile::wait_for_producers();
  if (place.to.data == nullptr) return;
  auto* const to = reinterpret_cast<float*>(place.to.data);
  constexpr int kBatch = 4;  // under way at once
  for (int64_t first = Group::thread(); first < columns; first += kBatch * Group::kCount) {
    float k[kBatch], score[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int64_t at = min(first + i * Group::kCount, columns - 1);
      k[i] = from[at];
      score[i] = from[columns + at] + __ldg(ape + at);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int64_t at = first + i * Group::kCount;
      if (at >= columns) break;
      to[at] = k[i];
      to[columns + at] = score[i];
    }
  }
}

}  // namespace cachalot::ops
