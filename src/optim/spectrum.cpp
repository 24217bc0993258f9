#include "optim/spectrum.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/check.h"

namespace cachalot::optim {
namespace {

// Rotates vectors a and b to be orthogonal; false where they were.
bool rotate(double* a, double* b, int64_t n) {
  double aa = 0, bb = 0, ab = 0;
  for (int64_t i = 0; i < n; ++i) aa += a[i] * a[i], bb += b[i] * b[i], ab += a[i] * b[i];
  if (std::fabs(ab) <= 1e-14 * std::sqrt(aa) * std::sqrt(bb)) return false;
  const double zeta = (bb - aa) / (2 * ab);
  const double tangent = std::copysign(1, zeta) / (std::fabs(zeta) + std::sqrt(1 + zeta * zeta));
  const double cosine = 1 / std::sqrt(1 + tangent * tangent), sine = cosine * tangent;
  for (int64_t i = 0; i < n; ++i) {
    const double x = a[i];
    a[i] = cosine * x - sine * b[i];
    b[i] = sine * x + cosine * b[i];
  }
  return true;
}

}  // namespace

std::vector<double> singular_values(std::span<const float> x, int64_t rows, int64_t columns) {
  CACHALOT_CHECK(rows >= 0 && columns >= 0 && static_cast<int64_t>(x.size()) == rows * columns);
  const bool wide = rows <= columns;
  const int64_t n = wide ? rows : columns, m = wide ? columns : rows;
  std::vector<double> v(x.size());  // [n, m]
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < m; ++j)
      v[static_cast<size_t>(i * m + j)] = x[static_cast<size_t>(wide ? i * m + j : j * n + i)];
  }
  // Convergence is quadratic; vectors that rounding alone keeps from 1e-14 end the loop here.
  constexpr int kMaxSweeps = 30;
  bool rotated = true;
  for (int sweep = 0; sweep < kMaxSweeps && rotated; ++sweep) {
    rotated = false;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i + 1; j < n; ++j)
        rotated |= rotate(&v[static_cast<size_t>(i * m)], &v[static_cast<size_t>(j * m)], m);
    }
  }
  std::vector<double> values;
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < m; ++j)
      sum += v[static_cast<size_t>(i * m + j)] * v[static_cast<size_t>(i * m + j)];
    values.push_back(std::sqrt(sum));
  }
  std::sort(values.begin(), values.end(), std::greater<>());
  return values;
}

}  // namespace cachalot::optim
