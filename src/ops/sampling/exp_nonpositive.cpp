#include "ops/sampling/exp_nonpositive.h"

#include <bit>
#include <cstdint>
#include <initializer_list>

namespace cachalot::ops {

double exp_nonpositive(double x) {
  constexpr double kLog2e = 0x1.71547652b82fep+0;
  // ln 2 in two parts; products of the first with an integer up to 2^10 are exact.
  constexpr double kLn2High = 0x1.62e42fefap-1, kLn2Low = 0x1.cf79abc9e3b3ap-40;
  if (!(x >= kLeastExponent)) return 0.0;
  const double n = (x * kLog2e + 0x1.8p52) - 0x1.8p52;  // to the nearest integer
  const double r = (x - n * kLn2High) - n * kLn2Low;
  // Taylor series; |r| <= 0.347 leaves a remainder below 2^-58.
  double sum = 1.0 / 6227020800;
  for (const double factorial : {479001600.0, 39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0,
                                 720.0, 120.0, 24.0, 6.0, 2.0}) {
    sum = sum * r + 1.0 / factorial;
  }
  const double value = 1.0 + (r + r * r * sum);
  return value * std::bit_cast<double>(static_cast<uint64_t>(1023 + static_cast<int64_t>(n)) << 52);
}

}  // namespace cachalot::ops
