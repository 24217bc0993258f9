#include "cache/boundary_state.h"

#include <algorithm>

namespace cachalot::cache {
namespace {
constexpr int64_t kLineBytes = 64;

int64_t end_of(const CacheLayout& layout, const BoundaryRing& ring) {
  const LayerStreams& layer = layout.layer(ring.layer_idx);
  const tensor::RowLayout& row = ring.kind == tensor::Recent::window ? layer.window
                                 : ring.kind == tensor::Recent::tail ? layer.tail
                                                                     : layer.index_tail;
  const int64_t end = ring.offset + ring.num_rows * row.row_bytes();
  return (end + kLineBytes - 1) / kLineBytes * kLineBytes;
}
}  // namespace

std::vector<BoundaryRing> boundary_rings(const CacheLayout& layout) {
  std::vector<BoundaryRing> rings;
  for (int64_t i = 0; i < layout.num_layers(); ++i) {
    const LayerStreams& layer = layout.layer(i);
    const auto add = [&](tensor::Recent kind, int64_t num_rows) {
      if (num_rows <= 0) return;
      rings.push_back({i, kind, num_rows, rings.empty() ? 0 : end_of(layout, rings.back())});
    };
    const int64_t slack = layout.rewind_slack();
    add(tensor::Recent::window, layer.window_capacity - slack);
    add(tensor::Recent::tail, layer.tail_capacity - slack - layer.ratio);
    add(tensor::Recent::index_tail, layer.index_tail_capacity - slack - layer.ratio);
  }
  return rings;
}

int64_t boundary_state_bytes(const CacheLayout& layout) {
  const std::vector<BoundaryRing> rings = boundary_rings(layout);
  return rings.empty() ? 0 : end_of(layout, rings.back());
}

int64_t boundary_rows(const CacheLayout& layout) {
  int64_t rows = 0;
  for (const BoundaryRing& ring : boundary_rings(layout)) rows = std::max(rows, ring.num_rows);
  return rows;
}

int64_t rebuild_rows(const CacheLayout& layout, int64_t num_layers) {
  int64_t window = 1;
  for (const BoundaryRing& ring : boundary_rings(layout)) {
    if (ring.kind == tensor::Recent::window) window = std::max(window, ring.num_rows);
  }
  return boundary_rows(layout) + (num_layers - 1) * (window - 1);
}

}  // namespace cachalot::cache
