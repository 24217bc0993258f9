#include "ops/compressor/compressor.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "ops/compressor/compressor_impl.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {

void check_compress(const CompressParams& p) {
  CACHALOT_CHECK(p.ratio > 0 && p.width > 0 && p.tail != tensor::Recent::window);
  const int64_t row_bytes = 2 * (p.overlap ? 2 : 1) * p.width * 4;  // K, and S after it
  const tensor::Sequences& sequences = p.sequences;
  for (int64_t s = 0; s < sequences.count; ++s) {
    CACHALOT_CHECK(sequences.num_rows(s) >= 0 && sequences.first_position[s] >= 0);
    if (sequences.num_entries(s, p.ratio) == 0) continue;
    CACHALOT_CHECK(p.step_rows.layout.data_bytes == row_bytes);
    const int64_t first = sequences.first_entry(s, p.ratio);
    const int64_t oldest = std::max<int64_t>(0, (first - (p.overlap ? 1 : 0)) * p.ratio);
    if (oldest < sequences.first_position[s]) {
      const tensor::RowRing ring = tensor::ring_of(p.layer_rows[s], p.tail);
      CACHALOT_CHECK(ring.base != nullptr);
      CACHALOT_CHECK(ring.layout.data_bytes == row_bytes);
      CACHALOT_CHECK(ring.capacity >= sequences.first_position[s] - oldest);
    }
  }
}

void compress(device::ExecContext& ctx, const CompressParams& p) {
  check_compress(p);
  if (ctx.gpu != nullptr) return compress_cuda(ctx, p);
  CompressChannels* channels =
      pick_kernel(ctx.isa, compress_channels_ref, compress_channels_avx2, compress_channels_avx512);
  for_entry_channels(ctx, p, [&](const EntryChannels& e) {
    channels(e.slots, e.begin, e.end, p.out + e.idx * p.width);
  });
}

// One addition a value: bound by memory, so that the compiler's own vectors do.
void add_positional_bias(device::ExecContext& ctx, const PositionalBiasParams& p) {
  CACHALOT_CHECK(p.ratio > 0 && p.columns > 0);
  if (ctx.gpu != nullptr) return add_positional_bias_cuda(ctx, p);
  for_row_blocks(ctx, p.sequences.rows(), p.columns, [&](int64_t first, int64_t last) {
    int64_t s = p.sequences.sequence_of(first);
    for (int64_t row = first; row < last; ++row) {
      while (row >= p.sequences.first_row[s + 1]) ++s;
      float* scores = p.rows + (2 * row + 1) * p.columns;
      const float* ape = p.ape + p.sequences.position(s, row) % p.ratio * p.columns;
      for (int64_t c = 0; c < p.columns; ++c) scores[c] += ape[c];
    }
  });
}

// One thread: a store for each entry.
void entry_positions(device::ExecContext& ctx, const tensor::Sequences& sequences, int64_t ratio,
                     int64_t* positions) {
  if (ctx.gpu != nullptr) return entry_positions_cuda(ctx, sequences, ratio, positions);
  for (int64_t s = 0; s < sequences.count; ++s) {
    const int64_t first = sequences.first_entry(s, ratio);
    for (int64_t i = 0; i < sequences.num_entries(s, ratio); ++i) {
      *positions++ = (first + i) * ratio;
    }
  }
}

namespace {

void store_sequence(const StoreRecentParams& p, int64_t s) {
  const tensor::RowRing ring = tensor::ring_of(p.layer_rows[s], p.kind);
  const int64_t num_rows = p.sequences.num_rows(s);
  if (ring.base == nullptr || num_rows == 0) return;
  const tensor::RowLayout layout = ring.layout;
  CACHALOT_CHECK(layout.data_bytes == p.step_rows.layout.data_bytes &&
                 layout.scale_bytes == p.step_rows.layout.scale_bytes);
  for (int64_t i = std::max<int64_t>(0, num_rows - ring.capacity); i < num_rows; ++i) {
    const tensor::RowRef from = p.step_rows.row(p.sequences.first_row[s] + i);
    const tensor::RowRef to = ring.row(p.sequences.first_position[s] + i);
    std::memcpy(to.data, from.data, layout.data_bytes);
    std::memcpy(to.scale, from.scale, layout.scale_bytes);
  }
}

}  // namespace

void store_recent_rows(device::ExecContext& ctx, const StoreRecentParams& p) {
  if (ctx.gpu != nullptr) return store_recent_rows_cuda(ctx, p);
  if (p.sequences.count == 0) return;
  const int64_t rows = (p.sequences.rows() + p.sequences.count - 1) / p.sequences.count;
  for_row_blocks(ctx, p.sequences.count, rows * p.step_rows.layout.row_bytes(),
                 [&](int64_t first, int64_t last) {
                   for (int64_t s = first; s < last; ++s) store_sequence(p, s);
                 });
}

}  // namespace cachalot::ops
