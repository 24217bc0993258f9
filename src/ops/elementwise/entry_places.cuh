// Where entry `i` of those that a step completes goes, on the GPU (entry_places.h is the CPU's).
#pragma once

#include "tensor/rows.h"

namespace cachalot::ops {

struct DeviceEntryPlace {
  int64_t sequence;
  int64_t entry;
};

// i: less than sequences.num_entries(ratio).
__device__ inline DeviceEntryPlace entry_place(const tensor::Sequences& sequences, int64_t ratio,
                                               int64_t i) {
  for (int64_t s = 0;; ++s) {
    const int64_t count = sequences.num_entries(s, ratio);
    if (i < count) return {s, sequences.first_entry(s, ratio) + i};
    i -= count;
  }
}

}  // namespace cachalot::ops
