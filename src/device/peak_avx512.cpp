#include <immintrin.h>

#include "device/machine_limits.h"

namespace cachalot::device {

double f32_peak_avx512(int64_t steps, float* sink) {
  constexpr int kChains = 16;
  __m512 acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(1.25f);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = _mm512_fmadd_ps(acc[i], a, b);
  }
  for (int i = 1; i < kChains; ++i) acc[0] = _mm512_add_ps(acc[0], acc[i]);
  *sink = _mm512_cvtss_f32(acc[0]);
  return static_cast<double>(steps) * kChains * 32;
}

}  // namespace cachalot::device
