// Where the compressed entries go that a step completes, so that ops can cut them as one list.
#pragma once

#include "device/buffer.h"
#include "tensor/rows.h"

namespace cachalot::ops {

struct EntryPlace {
  int64_t sequence;
  int64_t entry;
};

// Sequences::num_entries(ratio) of them, sequence after sequence; memory of the arena.
inline const EntryPlace* entry_places(device::Arena& arena, const tensor::Sequences& sequences,
                                      int64_t ratio) {
  auto* places = arena.allocate<EntryPlace>(sequences.num_entries(ratio));
  EntryPlace* next = places;
  for (int64_t s = 0; s < sequences.count; ++s) {
    const int64_t first = sequences.first_entry(s, ratio);
    for (int64_t i = 0; i < sequences.num_entries(s, ratio); ++i) *next++ = {s, first + i};
  }
  return places;
}

}  // namespace cachalot::ops
