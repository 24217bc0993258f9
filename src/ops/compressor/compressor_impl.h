// The versions of compress and of its gradients behind their entries: each takes channels
// [begin, end) of one entry's slots.
#pragma once

#include <algorithm>

#include "ops/compressor/compressor.h"
#include "ops/elementwise/entry_places.h"

namespace cachalot::ops {

// The K and S values of an entry's slots, oldest first, for all `width` channels. num_slots >= 1.
struct CompressSlots {
  const float* const* k;
  const float* const* s;
  int64_t num_slots;
};

// Where the gradients of the slots' K and S values are added.
struct CompressSlotGradients {
  float* const* k;
  float* const* s;
};

using CompressChannels = void(const CompressSlots& slots, int64_t begin, int64_t end, float* out);
CompressChannels compress_channels_ref, compress_channels_avx2, compress_channels_avx512;

using CompressGradients = void(const CompressSlots& slots, const CompressSlotGradients& gradients,
                               const float* d_out, int64_t begin, int64_t end);
CompressGradients compress_gradients_ref, compress_gradients_avx2, compress_gradients_avx512;

// Ends the process where the parameters contradict each other.
void check_compress(const CompressParams& p);

struct EntryChannels {
  CompressSlots slots;
  int64_t idx;  // of all entries that the step completes
  int64_t sequence;
  int64_t own;    // the entry's first own position
  int64_t start;  // position of the first slot
  int64_t begin;
  int64_t end;
  int worker;
};

// Where a position's K lies in its row for an entry whose own positions begin at `own`.
inline int64_t slot_offset(const CompressParams& p, int64_t position, int64_t own) {
  return p.overlap && position >= own ? p.width : 0;
}

// fn(EntryChannels) for all entries of all sequences, tiled over channels.
template <typename Fn>
void for_entry_channels(device::ExecContext& ctx, const CompressParams& p, const Fn& fn) {
  constexpr int64_t kChannelsPerTask = 128;
  const int64_t row_width = (p.overlap ? 2 : 1) * p.width;
  const int64_t max_slots = (p.overlap ? 2 : 1) * p.ratio;
  const int64_t tiles = (p.width + kChannelsPerTask - 1) / kChannelsPerTask;
  const device::ArenaScope scope(*ctx.arena);
  const float** pointers =
      ctx.arena->allocate<const float*>(ctx.pool->num_threads() * 2 * max_slots);
  const EntryPlace* places = entry_places(*ctx.arena, p.sequences, p.ratio);
  ctx.pool->run(p.sequences.num_entries(p.ratio) * tiles, [&](int64_t task, int worker) {
    const auto [sequence, entry] = places[task / tiles];
    const int64_t own = entry * p.ratio;
    const int64_t begin = task % tiles * kChannelsPerTask;
    const tensor::RecentRows rows = tensor::recent_rows(
        p.sequences, sequence, tensor::ring_of(p.layer_rows[sequence], p.tail), p.step_rows);
    const float** k = pointers + worker * 2 * max_slots;
    const float** s = k + max_slots;
    int64_t num_slots = 0;
    const int64_t start = p.overlap ? std::max<int64_t>(0, own - p.ratio) : own;
    for (int64_t position = start; position < own + p.ratio; ++position) {
      const auto* row = reinterpret_cast<const float*>(rows.row(position).data);
      k[num_slots] = row + slot_offset(p, position, own);
      s[num_slots] = k[num_slots] + row_width;
      ++num_slots;
    }
    fn(EntryChannels{{k, s, num_slots},
                     task / tiles,
                     sequence,
                     own,
                     start,
                     begin,
                     std::min(p.width, begin + kChannelsPerTask),
                     worker});
  });
}

}  // namespace cachalot::ops
