#include "ops/compressor/compressor.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "ops/compressor/compressor_impl.h"
#include "ops/elementwise/kernel_dispatch.h"

namespace cachalot::ops {
void check_compress(const CompressParams& p) {
  CACHALOT_CHECK(p.ratio > 0 && p.width > 0 && p.first_entry >= 0);
  CACHALOT_CHECK(p.first_entry <= p.last_entry);
  if (p.first_entry == p.last_entry) return;
  const int64_t row_width = (p.overlap ? 2 : 1) * p.width;  // of K, and of S after it
  CACHALOT_CHECK(p.rows.chunk.layout.data_bytes == 2 * row_width * 4);
  const int64_t oldest = std::max<int64_t>(0, (p.first_entry - (p.overlap ? 1 : 0)) * p.ratio);
  if (oldest < p.rows.first_position) {
    CACHALOT_CHECK(p.rows.ring.base != nullptr);
    CACHALOT_CHECK(p.rows.ring.layout.data_bytes == 2 * row_width * 4);
    CACHALOT_CHECK(p.rows.ring.capacity >= p.rows.first_position - oldest);
  }
}

void compress(device::ExecContext& ctx, const CompressParams& p) {
  check_compress(p);
  CompressChannels* channels =
      pick_kernel(ctx.isa, compress_channels_ref, compress_channels_avx2, compress_channels_avx512);
  for_entry_channels(ctx, p, [&](const EntryChannels& e) {
    channels(e.slots, e.begin, e.end, p.out + (e.entry - p.first_entry) * p.width);
  });
}

void store_recent_rows(const tensor::RecentRows& rows, int64_t num_tokens) {
  if (rows.ring.base == nullptr) return;
  const tensor::RowLayout layout = rows.ring.layout;
  CACHALOT_CHECK(num_tokens == 0 || (layout.data_bytes == rows.chunk.layout.data_bytes &&
                                     layout.scale_bytes == rows.chunk.layout.scale_bytes));
  for (int64_t i = std::max<int64_t>(0, num_tokens - rows.ring.capacity); i < num_tokens; ++i) {
    const tensor::RowRef from = rows.chunk.row(i);
    const tensor::RowRef to = rows.ring.row(rows.first_position + i);
    std::memcpy(to.data, from.data, layout.data_bytes);
    std::memcpy(to.scale, from.scale, layout.scale_bytes);
  }
}

}  // namespace cachalot::ops
