#include "ops/compressor/compressor_backward.h"

#include <algorithm>

#include "base/check.h"
#include "ops/compressor/compressor_impl.h"
#include "ops/elementwise/kernel_dispatch.h"

namespace cachalot::ops {

void compress_backward(device::ExecContext& ctx, const CompressBackwardParams& p) {
  const CompressParams& f = p.forward;
  check_compress(f);
  if (f.sequences.num_entries(f.ratio) == 0) return;
  for (int64_t s = 0; s < f.sequences.count; ++s) {
    CACHALOT_CHECK_MSG(f.sequences.first_position[s] == 0,
                       "compress_backward: rows of a ring have no gradient");
  }
  CACHALOT_CHECK(p.d_out != nullptr && p.d_rows != nullptr);

  const int64_t row_width = (f.overlap ? 2 : 1) * f.width;
  const int64_t max_slots = (f.overlap ? 2 : 1) * f.ratio;
  CompressGradients* gradients = pick_kernel(ctx.isa, compress_gradients_ref,
                                             compress_gradients_avx2, compress_gradients_avx512);
  const device::ArenaScope scope(*ctx.arena);
  float** pointers = ctx.arena->allocate<float*>(ctx.pool->num_threads() * 2 * max_slots);
  for_entry_channels(ctx, f, [&](const EntryChannels& e) {
    float** dk = pointers + e.worker * 2 * max_slots;
    float** ds = dk + max_slots;
    for (int64_t j = 0; j < e.slots.num_slots; ++j) {
      const int64_t position = e.start + j;
      dk[j] = p.d_rows + (f.sequences.first_row[e.sequence] + position) * 2 * row_width +
              slot_offset(f, position, e.own);
      ds[j] = dk[j] + row_width;
    }
    gradients(e.slots, {dk, ds}, p.d_out + e.idx * f.width, e.begin, e.end);
  });
}

// One addition a value read: bound by memory, so that the compiler's own vectors do.
void compress_bias_backward(device::ExecContext& ctx, const CompressBiasBackwardParams& p) {
  CACHALOT_CHECK(p.ratio > 0 && p.columns > 0);
  const tensor::Sequences& sequences = p.sequences;
  for_row_blocks(ctx, p.ratio, (sequences.rows() / p.ratio + 1) * p.columns,
                 [&](int64_t first_phase, int64_t last_phase) {
                   for (int64_t phase = first_phase; phase < last_phase; ++phase) {
                     float* d_ape = p.d_ape + phase * p.columns;
                     for (int64_t s = 0; s < sequences.count; ++s) {
                       const int64_t skipped =
                           (phase - sequences.first_position[s] % p.ratio + p.ratio) % p.ratio;
                       for (int64_t row = sequences.first_row[s] + skipped;
                            row < sequences.first_row[s + 1]; row += p.ratio) {
                         const float* ds = p.d_rows + (2 * row + 1) * p.columns;
                         for (int64_t c = 0; c < p.columns; ++c) d_ape[c] += ds[c];
                       }
                     }
                   }
                 });
}

}  // namespace cachalot::ops
