// hyper_split and its backward, one row after the other.
#include "ops/elementwise/f32x1.h"

// The vector type comes first.
#include "ops/hyper/hyper_split_lanes.h"

namespace cachalot::ops {

void hyper_split_ref(const HyperSplitParams& p, int64_t first_row, int64_t last_row) {
  hyper_split_lanes(p, first_row, last_row);
}

void hyper_split_backward_ref(const HyperSplitParams& p, const HyperSplitGradients& g,
                              const HyperSplitScratch& scratch, int64_t first_row,
                              int64_t last_row) {
  hyper_split_backward_lanes(p, g, scratch, first_row, last_row);
}

}  // namespace cachalot::ops
