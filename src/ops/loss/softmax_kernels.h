// The row kernels of cross_entropy.h.
#pragma once

#include <cstdint>

namespace cachalot::ops {

struct ExpSum {
  float max;
  double sum;
};

inline constexpr int64_t kExpSumRun = 1024;

// sum_i exp(x_i - max); the terms go to e (which may be x) unless it is null.
using ExpSumKernel = ExpSum(const float* x, int64_t n, float* e);
ExpSumKernel exp_sum_ref, exp_sum_avx2, exp_sum_avx512;

// e_i *= factor.
using ScaleKernel = void(float* e, int64_t n, float factor);
ScaleKernel scale_ref, scale_avx2, scale_avx512;

}  // namespace cachalot::ops
