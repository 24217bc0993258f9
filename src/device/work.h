// What ops have done, counted by their fronts from the shapes they are called with: so much the
// kernels of either device run. For a context that carries a counter (exec_context.h).
// Source  reference/forward 8.1, 8.2.
#pragma once

#include <cstdint>

namespace cachalot::device {

struct Work {
  // Multiply-adds of products, by what is multiplied.
  int64_t narrow = 0;     // FP8, or FP4 weights
  int64_t fp4_pairs = 0;  // FP4 with FP4: the indexer's scores
  int64_t wide = 0;       // bf16 and fp32
  // Written into cache rows that grow with the context.
  int64_t cache_bytes = 0;

  // A multiply-add is two, of bf16 and fp32 four, of FP4 with FP4 one.
  double fp8_equivalent_flops() const {
    return 2.0 * static_cast<double>(narrow) + 4.0 * static_cast<double>(wide) +
           static_cast<double>(fp4_pairs);
  }
};

}  // namespace cachalot::device
