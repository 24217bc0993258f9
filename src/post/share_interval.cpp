#include "post/share_interval.h"

#include <cmath>

namespace cachalot::post {

Interval share_interval(int64_t correct, int64_t count) {
  if (count == 0) return {};
  constexpr double kZ = 1.959963984540054;  // 97.5 % of the normal law lie below
  const auto n = static_cast<double>(count);
  const double share = static_cast<double>(correct) / n, z2 = kZ * kZ / n;
  const double middle = (share + z2 / 2) / (1 + z2);
  const double half = kZ / (1 + z2) * std::sqrt(share * (1 - share) / n + z2 / (4 * n));
  return {middle - half, middle + half};
}

}  // namespace cachalot::post
