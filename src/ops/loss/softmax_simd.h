// The kernels of softmax_kernels.h over F32x16 (elementwise/f32x16_*.h, included before this file).
#pragma once

#include "ops/loss/softmax_kernels.h"

namespace cachalot::ops {
namespace {

// NaN does not count, as in the reference; it comes back through the exponential.
float row_max(const float* x, int64_t n) {
  F32x16 lanes = splat(-__builtin_inff());
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) lanes = max(load(x + i), lanes);
  float result = fold_max(lanes);
  for (; i < n; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

template <bool kStores>
double exp_sum_runs(const float* x, int64_t n, float max, float* e) {
  const F32x16 shift = splat(max);
  float ones[16];
  store(ones, splat_bits(0xFFFFFFFF));
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += kExpSumRun) {
    const int64_t end = begin + kExpSumRun < n ? begin + kExpSumRun : n;
    F32x16 chains = splat(0.0f);
    for (int64_t i = begin; i < end; i += 16) {
      const int64_t left = end - i;
      const F32x16 terms = exp(load_first(x + i, left) - shift);
      if constexpr (kStores) store_first(e + i, left, terms);
      chains = chains + (left >= 16 ? terms : terms & load_first(ones, left));
    }
    sum += static_cast<double>(fold_sum(chains));
  }
  return sum;
}

ExpSum exp_sum_simd(const float* x, int64_t n, float* e) {
  const float max = row_max(x, n);
  return {max, e == nullptr ? exp_sum_runs<false>(x, n, max, e) : exp_sum_runs<true>(x, n, max, e)};
}

void scale_simd(float* e, int64_t n, float factor) {
  const F32x16 f = splat(factor);
  for (int64_t i = 0; i < n; i += 16) store_first(e + i, n - i, load_first(e + i, n - i) * f);
}

}  // namespace
}  // namespace cachalot::ops
