// The exponential of sampling, in float64.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/host_device.h"

namespace cachalot::ops {

inline constexpr double kLeastExponent = -693.0;  // e^-693 is above 2^-1000

// exp(x) for x <= 0 (or -inf) with the same bits on every machine; within 2 units in the last
// place, 0 below kLeastExponent.
CACHALOT_HD inline double exp_nonpositive(double x) {
  constexpr double kLog2e = 0x1.71547652b82fep+0;
  // ln 2 in two parts; products of the first with an integer up to 2^10 are exact.
  constexpr double kLn2High = 0x1.62e42fefap-1, kLn2Low = 0x1.cf79abc9e3b3ap-40;
  if (!(x >= kLeastExponent)) return 0.0;
  const double n = (x * kLog2e + 0x1.8p52) - 0x1.8p52;  // to the nearest integer
  const double r = (x - n * kLn2High) - n * kLn2Low;
  // Taylor series; |r| <= 0.347 leaves a remainder below 2^-58.
  constexpr double kTerms[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
                               1.0 / 40320,     1.0 / 5040,     1.0 / 720,     1.0 / 120,
                               1.0 / 24,        1.0 / 6,        1.0 / 2};
  double sum = 1.0 / 6227020800;
  for (int i = 0; i < 11; ++i) sum = sum * r + kTerms[i];
  const double value = 1.0 + (r + r * r * sum);
  const uint64_t power_bits = static_cast<uint64_t>(1023 + static_cast<int64_t>(n)) << 52;
  double power;
  memcpy(&power, &power_bits, sizeof(power));
  return value * power;
}

}  // namespace cachalot::ops
