// The end of a sum in 16 interleaved chains (value i goes to chain i mod 16): chains i and i + 8,
// then 4, 2 and 1 apart, the order of fold_sum over vectors (f32x16_avx2.h). For the plain loops.
#pragma once

#include <cstdint>

namespace cachalot::ops {

inline float fold16(float (&chains)[16]) {
  for (int64_t half = 8; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) chains[i] += chains[i + half];
  }
  return chains[0];
}

}  // namespace cachalot::ops
