#include "post/pass_at_k.h"

#include <fmt/format.h>

namespace cachalot::post {
namespace {

Status check(int64_t n, int64_t c, int64_t k) {
  if (c >= 0 && c <= n && k >= 1 && k <= n) return {};
  return invalid_argument(fmt::format(
      "pass@k: expected 0 <= c <= n and 1 <= k <= n, found n = {}, c = {}, k = {}", n, c, k));
}

// C(m, k) / C(n, k).
double share(int64_t n, int64_t m, int64_t k) {
  if (k > m) return 0;
  double product = 1;
  for (int64_t i = 0; i < k; ++i)
    product *= static_cast<double>(m - i) / static_cast<double>(n - i);
  return product;
}

}  // namespace

Result<double> pass_at_k(int64_t n, int64_t c, int64_t k) {
  CACHALOT_RETURN_IF_ERROR(check(n, c, k));
  return 1 - share(n, n - c, k);
}

Result<double> pass_power_k(int64_t n, int64_t c, int64_t k) {
  CACHALOT_RETURN_IF_ERROR(check(n, c, k));
  return share(n, c, k);
}

}  // namespace cachalot::post
