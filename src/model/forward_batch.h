// The input of the one forward: the tokens of many sequences. A training pack, a prefill chunk, a
// decode step and a draft verification are all this, with other sequences.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/rows.h"

namespace cachalot::model {

// Borrowed. The rows of all positions before a sequence's first are in its layer rows, and the rows
// of its tokens are added to them.
struct ForwardBatch {
  // Ids of all sequences, one after another; each in [0, vocab_size).
  std::span<const int32_t> tokens;
  tensor::Sequences sequences;
  // [layers][sequences.count]: decoder layers, then MTP blocks.
  const tensor::LayerRows* const* layer_rows = nullptr;
  // The compressed rows of the batch's own tokens are there already: they are read, not written.
  bool has_entries = false;
  // Not null: the ids are these, in the context's memory, where an op before has put them; of
  // `tokens` the number alone counts.
  const int32_t* drawn = nullptr;
};

}  // namespace cachalot::model
