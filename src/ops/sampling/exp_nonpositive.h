// The exponential of sampling, in float64.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/host_device.h"

namespace cachalot::ops {

inline constexpr double kLeastExponent = -693.0;  // e^-693 is above 2^-1000

// Float: double, or two of them side by side; Bits: as many uint64_t.
template <typename Bits, typename Float>
CACHALOT_HD inline Float exp_nonpositive_of(Float x) {
  constexpr double kLog2e = 0x1.71547652b82fep+0;
  // ln 2 in two parts; products of the first with an integer up to 2^10 are exact.
  constexpr double kLn2High = 0x1.62e42fefap-1, kLn2Low = 0x1.cf79abc9e3b3ap-40;
  // 1.5 * 2^52 more, whose last bits hold the nearest integer.
  const Float rounded = x * kLog2e + 0x1.8p52;
  const Float n = rounded - 0x1.8p52;
  const Float r = (x - n * kLn2High) - n * kLn2Low;
  // Taylor series; |r| <= 0.347 leaves a remainder below 2^-58.
  Float sum = 1.0 / 6227020800 * r + 1.0 / 479001600;
  sum = sum * r + 1.0 / 39916800;
  sum = sum * r + 1.0 / 3628800;
  sum = sum * r + 1.0 / 362880;
  sum = sum * r + 1.0 / 40320;
  sum = sum * r + 1.0 / 5040;
  sum = sum * r + 1.0 / 720;
  sum = sum * r + 1.0 / 120;
  sum = sum * r + 1.0 / 24;
  sum = sum * r + 1.0 / 6;
  sum = sum * r + 1.0 / 2;
  Bits bits;
  memcpy(&bits, &rounded, sizeof(bits));
  bits = (bits + 1023) << 52;
  Float power;
  memcpy(&power, &bits, sizeof(power));
  const Float value = (1.0 + (r + r * r * sum)) * power;
  memcpy(&bits, &value, sizeof(bits));
  if constexpr (sizeof(Float) == sizeof(double)) {
    bits = x >= kLeastExponent ? bits : 0;
  } else {
    bits &= reinterpret_cast<Bits>(x >= kLeastExponent);
  }
  Float result;
  memcpy(&result, &bits, sizeof(result));
  return result;
}

// exp(x) for x <= 0 (or -inf) with the same bits on every machine; within 2 units in the last
// place, 0 below kLeastExponent.
CACHALOT_HD inline double exp_nonpositive(double x) { return exp_nonpositive_of<uint64_t>(x); }

#ifndef __CUDACC__  // nvcc does not compile vectors of two doubles
// The same of eight numbers, in place.
inline void exp_nonpositive_of_eight(double (&x)[8]) {
  using Two = double __attribute__((vector_size(16)));
  using TwoBits = uint64_t __attribute__((vector_size(16)));
  Two two[4];
  memcpy(two, x, sizeof(x));
  for (Two& each : two) each = exp_nonpositive_of<TwoBits>(each);
  memcpy(x, two, sizeof(x));
}
#endif

}  // namespace cachalot::ops
