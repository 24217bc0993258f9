// The input of the one forward: tokens in segments. A training pack, a prefill chunk, a decode step
// and a draft verification are all this, with other segments.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/rows.h"

namespace cachalot::model {

// Where one sequence's rows of one layer are read and written. Borrowed; filled by the cache
// (serving) or with blocks over the step's own activations and null rings (training). Which members
// a layer uses follows from its kind.
struct LayerCacheView {
  tensor::RowRing window;        // KV rows of recent positions
  tensor::RowBlocks entries;     // compressed KV rows
  tensor::RowRing tail;          // the compressor's K, S rows of recent positions
  tensor::RowBlocks index_keys;  // compressed indexer rows
  tensor::RowRing index_tail;
};

// num_tokens tokens of one sequence, starting at first_position; the rows of all earlier positions
// are in the views, and the rows of this segment are added to them.
struct Segment {
  int64_t first_position = 0;
  int64_t num_tokens = 0;
  std::span<const LayerCacheView> layers;  // decoder layers, then MTP blocks
};

struct ForwardBatch {
  // ids of all segments, one after another; each in [0, vocab_size)
  std::span<const int32_t> tokens;
  std::span<const Segment> segments;
};

}  // namespace cachalot::model
