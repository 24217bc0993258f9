#include <immintrin.h>

#include "device/machine_limits.h"

namespace cachalot::device {

double f32_peak_avx2(int64_t steps, float* sink) {
  constexpr int kChains = 12;
  __m256 acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(1.25f);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) acc[i] = _mm256_fmadd_ps(acc[i], a, b);
  }
  for (int i = 1; i < kChains; ++i) acc[0] = _mm256_add_ps(acc[0], acc[i]);
  *sink = _mm256_cvtss_f32(acc[0]);
  return static_cast<double>(steps) * kChains * 16;
}

}  // namespace cachalot::device
