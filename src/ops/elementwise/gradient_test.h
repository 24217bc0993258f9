// What the tests of backward functions share: central differences in double, and comparison of what
// was added.
#pragma once

#include <functional>

#include "ops/elementwise/kernel_test.h"

namespace cachalot::ops {

using Doubles = std::vector<double>;

inline Doubles widened(const std::vector<float>& x) { return {x.begin(), x.end()}; }

inline double largest(const std::vector<float>& x) {
  double result = 0;
  for (float v : x) result = std::max(result, std::fabs(static_cast<double>(v)));
  return result;
}

// d f / d x by central differences in double: with a step of 1e-5 and functions whose third
// derivatives are of the order of their values, truncation and rounding both stay below 1e-9 of the
// values, far under fp32.
inline Doubles central_differences(Doubles x, const std::function<double(const Doubles&)>& f) {
  constexpr double kStep = 1e-5;
  Doubles gradient(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double old = x[i];
    x[i] = old + kStep;
    const double above = f(x);
    x[i] = old - kStep;
    gradient[i] = (above - f(x)) / (2 * kStep);
    x[i] = old;
  }
  return gradient;
}

// What a backward function added to `before` is the gradient, to within `tolerance` and the
// rounding of the sum.
inline void expect_added(const std::vector<float>& before, const std::vector<float>& after,
                         const Doubles& gradient, double tolerance, const std::string& what) {
  ASSERT_EQ(after.size(), gradient.size()) << what;
  for (size_t i = 0; i < after.size(); ++i) {
    ASSERT_NEAR(after[i], before[i] + gradient[i], tolerance + 0x1p-23 * std::fabs(before[i]))
        << what << ", element " << i;
  }
}

}  // namespace cachalot::ops
