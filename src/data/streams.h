// The random streams of the data path. Each value is a pure function of (seed, use, a, b, index),
// so threads, batching and restarts never change what is drawn.
#pragma once

#include <cstdint>

#include "base/rng.h"

namespace cachalot::data {

// What a stream decides; part of the key. Values are fixed: changing one changes every run's data.
enum class DataUse : uint32_t {
  document_order = 1,  // a: source, b: epoch
  pack_order = 2,      // b: window
  fim = 3,             // a: source, b: epoch, index: document
  glued_tokens = 4,    // index: document
  tasks = 5,           // a: family, index: task
};

RngStream data_stream(uint64_t seed, DataUse use, uint32_t a, uint64_t b, uint64_t index);

// Uniform in [0, n), n >= 1, exactly (by rejection).
uint64_t draw_below(RngStream& rng, uint64_t n);

}  // namespace cachalot::data
