#include "cache/ring_rows.h"

#include <algorithm>

namespace cachalot::cache {

void clear_rows(device::Gpu* gpu, const tensor::RowRing& ring, int64_t first, int64_t last) {
  if (ring.base == nullptr) return;
  for (int64_t position = std::max(first, last - ring.capacity); position < last; ++position) {
    const tensor::RowRef row = ring.row(position);
    device::clear_bytes(gpu, row.data, ring.layout.data_bytes);
    device::clear_bytes(gpu, row.scale, ring.layout.scale_bytes);
  }
}

}  // namespace cachalot::cache
