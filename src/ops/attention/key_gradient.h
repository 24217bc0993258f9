// Gradients of key rows that many tokens share: each token adds its coefficients times its rows of
// channels (queries, gradients of outputs) to the key rows of its list.
// Source  reference/infrastructure 5.3: the sum over tokens has a fixed order.
//         d[key] += sum over tokens, then over the token's terms, of coefficient(key, term) *
//         row(term)
// Numerics  a channel is one chain of fused multiply-adds in that order, from what d holds. Tasks
//         cut keys and channels, never a chain: threads and calls change no bit.
#pragma once

#include <algorithm>
#include <cstdint>

#include "device/exec_context.h"
#include "ops/attention/backward_kernels.h"

namespace cachalot::ops {

// One token's keys, ascending rows of d.
struct TokenKeys {
  const int32_t* list;  // rows; null: first, first + 1, ...
  int64_t first;
  int64_t n;
  const float* coefficients;  // [n, stride], see KeyTerms
};

struct KeyGradientParams {
  const TokenKeys* tokens;
  const KeyTerms* terms;  // [num_tokens]
  int64_t num_tokens;
  int64_t stride;
  int64_t dim;
  float* d;  // [rows, dim]
};
void add_key_gradients(device::ExecContext& ctx, const KeyGradientParams& p);

// Calls take their rows in blocks, whose coefficients one phase writes and the next reads: rows
// [first_row, result) of those before last_row, as many as have kMaxCoefficients (half of a usual
// last-level cache of 16 MiB), at least one. coefficients(row) is their number.
inline constexpr int64_t kMaxCoefficients = int64_t{1} << 21;

template <typename Coefficients>
int64_t coefficient_block_end(int64_t first_row, int64_t last_row,
                              const Coefficients& coefficients) {
  int64_t left = kMaxCoefficients - coefficients(first_row);
  int64_t row = first_row + 1;
  while (row < last_row && left >= coefficients(row)) left -= coefficients(row++);
  return row;
}

struct CoefficientBlocks {
  int64_t max_tokens = 0;
  int64_t max_coefficients = 0;
};

template <typename Coefficients>
CoefficientBlocks measure_coefficient_blocks(int64_t first_row, int64_t last_row,
                                             const Coefficients& coefficients) {
  CoefficientBlocks blocks;
  for (int64_t first = first_row; first < last_row;) {
    const int64_t last = coefficient_block_end(first, last_row, coefficients);
    int64_t sum = 0;
    for (int64_t row = first; row < last; ++row) sum += coefficients(row);
    blocks.max_tokens = std::max(blocks.max_tokens, last - first);
    blocks.max_coefficients = std::max(blocks.max_coefficients, sum);
    first = last;
  }
  return blocks;
}

}  // namespace cachalot::ops
