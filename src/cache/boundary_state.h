// The state of a sequence at the end of a block, as it is kept apart from the sequence: per layer
// the rows of its rings that later positions read, without the slack that rewinding needs.
// Source  reference/infrastructure 8.2: windows, and of the tails the overlap alone, since a block
//         ends where an entry of every ratio does.
// Layout  ring after ring, each from a 64-byte line on: num_rows data parts, then as many scale
//         parts, positions ascending. Rows before position 0 are zeros.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/cache_layout.h"
#include "tensor/rows.h"

namespace cachalot::cache {

struct BoundaryRing {
  int64_t layer_idx;
  tensor::Recent kind;
  int64_t num_rows;  // those of the last positions
  int64_t offset;    // in the state's bytes
};

// In order; rings of which no row is needed are left out.
std::vector<BoundaryRing> boundary_rings(const CacheLayout& layout);
int64_t boundary_state_bytes(const CacheLayout& layout);

// Of the longest ring: positions before the boundary that it reaches back.
int64_t boundary_rows(const CacheLayout& layout);

// Positions that have to run through num_layers layers again, each layer fewer than the one before
// it, so that all of these rows exist at the end: the windows' rows in the last layer, and in each
// layer before it those that the next one's first row looks back on.
int64_t rebuild_rows(const CacheLayout& layout, int64_t num_layers);

}  // namespace cachalot::cache
