#include <algorithm>
#include <limits>

#include "ops/elementwise/exp.h"
#include "ops/loss/softmax_kernels.h"

namespace cachalot::ops {

ExpSum exp_sum_ref(const float* x, int64_t n, float* e) {
  float max = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) max = x[i] > max ? x[i] : max;
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += kExpSumRun) {
    float chain[16] = {};
    for (int64_t i = begin; i < std::min(n, begin + kExpSumRun); ++i) {
      const float term = exp_f32(x[i] - max);
      chain[i % 16] += term;
      if (e != nullptr) e[i] = term;
    }
    for (int64_t half = 8; half > 0; half /= 2) {
      for (int64_t i = 0; i < half; ++i) chain[i] += chain[i + half];
    }
    sum += static_cast<double>(chain[0]);
  }
  return {max, sum};
}

void scale_ref(float* e, int64_t n, float factor) {
  for (int64_t i = 0; i < n; ++i) e[i] *= factor;
}

}  // namespace cachalot::ops
