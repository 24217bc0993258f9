// What one token's keys add to the gradients of its queries.
#pragma once

#include <algorithm>

#include "ops/attention/attention_kernels.h"

namespace cachalot::ops {

struct QueryGradientParams {
  const float* coefficients;  // [n][stride], lane = head
  int64_t stride;
  int64_t heads;
  const std::byte* const* keys;  // n rows of padded_dim floats
  int64_t n;
  int64_t dim;
  int64_t padded_dim;
};

// dq [heads, dim] += sum over keys of coefficient * key, one chain a channel from what dq holds.
// sums [heads, padded_dim] is scratch for rows that are no whole vectors (dim < padded_dim).
inline void add_query_gradients(const AttentionKernels& kernels, const QueryGradientParams& p,
                                float* sums, float* dq) {
  constexpr int64_t kTileKeys = 64;
  const bool in_place = p.dim == p.padded_dim;
  float* out = in_place ? dq : sums;
  if (!in_place) {
    for (int64_t h = 0; h < p.heads; ++h) {
      float* end = std::copy_n(dq + h * p.dim, p.dim, sums + h * p.padded_dim);
      std::fill(end, sums + (h + 1) * p.padded_dim, 0.0f);
    }
  }
  for (int64_t i = 0; i < p.n; i += kTileKeys) {
    kernels.add_values(p.coefficients + i * p.stride, p.stride, 0, p.heads, p.keys + i,
                       std::min(kTileKeys, p.n - i), 0, p.padded_dim, false, true, out,
                       p.padded_dim);
  }
  if (!in_place) {
    for (int64_t h = 0; h < p.heads; ++h) {
      std::copy_n(sums + h * p.padded_dim, p.dim, dq + h * p.dim);
    }
  }
}

}  // namespace cachalot::ops
