// newton_schulz.h written out: plain loops over Z [m, n], m >= n, row after row.
#include <algorithm>
#include <cmath>

#include "numeric/formats.h"
#include "ops/optim/newton_schulz_kernels.h"

namespace cachalot::ops {

int64_t ns_ref_scratch_floats(int64_t rows, int64_t columns) {
  const int64_t n = std::min(rows, columns);
  return 2 * rows * columns + 2 * n * n;
}

void newton_schulz_ref(const NsMatrix& p, float* scratch) {
  const int64_t m = std::max(p.rows, p.columns), n = std::min(p.rows, p.columns);
  const bool tall = p.rows >= p.columns;
  const auto at = [&](int64_t i, int64_t j) { return tall ? i * n + j : j * m + i; };
  const auto operand = [&](float x) { return p.round_operands ? numeric::round_to_bf16(x) : x; };
  float *z = scratch, *next = z + m * n, *a = next + m * n, *b = a + n * n;

  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) z[i * n + j] = p.u[at(i, j)];
  }
  double sum = 0;
  for (int64_t i = 0; i < m; i += kNsTile) {
    for (int64_t j = 0; j < n; j += kNsTile) {
      sum += ns_sum_squares(z + i * n + j, n, std::min(kNsTile, m - i), std::min(kNsTile, n - j));
    }
  }
  if (sum == 0) {
    std::fill_n(p.out, m * n, 0.0f);
    return;
  }
  const double scale = 1 / std::sqrt(sum);
  for (int64_t i = 0; i < m * n; ++i) {
    z[i] = operand(static_cast<float>(static_cast<double>(z[i]) * scale));
  }

  // x^T x of x [k, n].
  const auto gram = [n](const float* x, int64_t k, int64_t i, int64_t j) {
    float chain = 0;
    for (int64_t r = 0; r < k; ++r) chain = std::fma(x[r * n + i], x[r * n + j], chain);
    return chain;
  };
  for (int step = 0; step < kNumNewtonSchulzSteps; ++step) {
    const NewtonSchulzStep poly = newton_schulz_step(step);
    const auto pa = static_cast<float>(poly.a), pb = static_cast<float>(poly.b);
    const auto pc = static_cast<float>(poly.c);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) a[i * n + j] = operand(gram(z, m, i, j));
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        b[i * n + j] = operand(std::fma(pc, gram(a, n, i, j), pb * a[i * n + j]));
      }
    }
    const bool last = step + 1 == kNumNewtonSchulzSteps;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        float chain = pa * z[i * n + j];
        for (int64_t k = 0; k < n; ++k) chain = std::fma(z[i * n + k], b[k * n + j], chain);
        next[i * n + j] = last ? chain : operand(chain);
      }
    }
    std::swap(z, next);
  }
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) p.out[at(i, j)] = z[i * n + j];
  }
}

}  // namespace cachalot::ops
