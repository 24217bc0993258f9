#include "cache/ring_rows.h"

#include <algorithm>
#include <cstring>

namespace cachalot::cache {

void clear_rows(const tensor::RowRing& ring, int64_t first, int64_t last) {
  if (ring.base == nullptr) return;
  for (int64_t position = std::max(first, last - ring.capacity); position < last; ++position) {
    const tensor::RowRef row = ring.row(position);
    std::memset(row.data, 0, static_cast<size_t>(ring.layout.data_bytes));
    std::memset(row.scale, 0, static_cast<size_t>(ring.layout.scale_bytes));
  }
}

}  // namespace cachalot::cache
