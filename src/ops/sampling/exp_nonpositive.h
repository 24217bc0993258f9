// The exponential of sampling, in float64.
#pragma once

namespace cachalot::ops {

// exp(x) for x <= 0 (or -inf) with the same bits on every machine; within 2 units in the last
// place, 0 below kLeastExponent.
double exp_nonpositive(double x);
inline constexpr double kLeastExponent = -693.0;  // e^-693 is above 2^-1000

}  // namespace cachalot::ops
