// Gradients of key rows that many tokens share: each token adds its coefficients times its rows of
// channels (queries, gradients of outputs) to the key rows of its list.
// Source  infrastructure.md 5.3: the sum over tokens has a fixed order.
//         d[key] += sum over tokens, then over the token's terms, of coefficient(key, term) * row(term)
// Numerics  a channel is one chain of fused multiply-adds in that order, from what d holds. Tasks cut
//         keys and channels, never a chain: threads and calls change no bit.
#pragma once

#include <cstdint>

#include "device/exec_context.h"
#include "ops/attention/backward_kernels.h"

namespace cachalot::ops {

// One token's keys, ascending rows of d.
struct TokenKeys {
  const int32_t* list;  // rows; null: first, first + 1, ...
  int64_t first;
  int64_t n;
  const float* coefficients;  // [n, stride], see KeyTerm
};

struct KeyGradientParams {
  const TokenKeys* tokens;
  const KeyTerm* terms;  // [num_tokens, num_terms]
  int64_t num_tokens;
  int64_t num_terms;
  int64_t stride;
  int64_t dim;
  float* d;  // [rows, dim]
};
void add_key_gradients(device::ExecContext& ctx, const KeyGradientParams& p);

}  // namespace cachalot::ops
