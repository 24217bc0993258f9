// hyper_split and its backward with a lane for each row: within a row there is a chain of divisions
// and little to do in parallel. Written over the vector type that is included before this file,
// F32x16 or F32x1; lanes past the last row hold zeros, which every step takes to finite numbers.
#pragma once

#include <algorithm>

#include "ops/hyper/hyper_connection_kernels.h"

namespace cachalot::ops {
namespace {

using Lanes = decltype(splat(0.0f));
constexpr int64_t kLanes = sizeof(Lanes) / sizeof(float);

// Column `column` of up to kLanes rows of a matrix, and back.
Lanes load_column(const float* matrix, int64_t width, int64_t column, int64_t rows) {
  alignas(64) float values[kLanes] = {};
  for (int64_t row = 0; row < rows; ++row) values[row] = matrix[row * width + column];
  return load(values);
}
void store_column(float* matrix, int64_t width, int64_t column, int64_t rows, Lanes lanes) {
  alignas(64) float values[kLanes];
  store(values, lanes);
  for (int64_t row = 0; row < rows; ++row) matrix[row * width + column] = values[row];
}
void add_column(float* matrix, int64_t width, int64_t column, int64_t rows, Lanes lanes) {
  store_column(matrix, width, column, rows, load_column(matrix, width, column, rows) + lanes);
}

Lanes sigmoid(Lanes z) {
  const Lanes one = splat(1.0f);
  return one / (one + exp(splat(0.0f) - z));
}

// The logits of up to kLanes rows.
struct SplitRows {
  const HyperSplitParams& p;
  int64_t n, width, first, rows;
  Lanes inv_rms;

  SplitRows(const HyperSplitParams& params, int64_t first_row, int64_t last_row)
      : p(params),
        n(params.n),
        width(2 * n + n * n),
        first(first_row),
        rows(std::min(kLanes, last_row - first_row)),
        inv_rms(load_column(params.inv_rms + first_row, 1, 0, rows)) {}

  Lanes mix(int64_t i) const { return load_column(p.mixes + first * width, width, i, rows); }
  Lanes logit(int64_t i, int64_t part) const {
    return mix(i) * inv_rms * splat(p.scale[part]) + splat(p.base[i]);
  }
};

// The result of every pass of Sinkhorn over rows or columns, and the divisors: what its backward
// walks.
struct SinkhornPasses {
  Lanes* results;   // [passes, n, n]; null: not kept. The first is the softmax before its epsilon.
  Lanes* divisors;  // [passes, n]

  void keep(int64_t pass, int64_t n, const Lanes* c) const {
    if (results != nullptr) std::copy_n(c, n * n, results + pass * n * n);
  }
  void keep_divisor(int64_t pass, int64_t n, int64_t i, Lanes divisor) const {
    if (results != nullptr) divisors[pass * n + i] = divisor;
  }
};

// Divides every line (row or column) i, elements c[i * line + m * step], by its sum + eps.
void normalize(Lanes* c, int64_t n, int64_t line, int64_t step, Lanes eps, int64_t pass,
               const SinkhornPasses& passes) {
  for (int64_t i = 0; i < n; ++i) {
    Lanes* x = c + i * line;
    Lanes sum = x[0];
    for (int64_t m = 1; m < n; ++m) sum = sum + x[m * step];
    const Lanes divisor = sum + eps;
    passes.keep_divisor(pass, n, i, divisor);
    for (int64_t m = 0; m < n; ++m) x[m * step] = x[m * step] / divisor;
  }
  passes.keep(pass, n, c);
}

int64_t num_passes(const HyperSplitParams& p) { return 2 * std::max<int64_t>(1, p.sinkhorn_iters); }

// reference/forward 2.4: the first row pass is a softmax whose epsilon joins the quotient; columns
// come last.
void sinkhorn(Lanes* c, const HyperSplitParams& p, const SinkhornPasses& passes) {
  const int64_t n = p.n;
  const Lanes eps = splat(p.hc_eps);
  for (int64_t j = 0; j < n; ++j) {
    Lanes* row = c + j * n;
    Lanes largest = row[0];
    for (int64_t k = 1; k < n; ++k) largest = max(row[k], largest);
    for (int64_t k = 0; k < n; ++k) row[k] = exp(row[k] - largest);
    Lanes sum = row[0];
    for (int64_t k = 1; k < n; ++k) sum = sum + row[k];
    for (int64_t k = 0; k < n; ++k) row[k] = row[k] / sum;
  }
  passes.keep(0, n, c);
  for (int64_t i = 0; i < n * n; ++i) c[i] = c[i] + eps;
  for (int64_t pass = 1; pass < num_passes(p); ++pass) {
    const bool columns = pass % 2 != 0;
    normalize(c, n, columns ? 1 : n, columns ? n : 1, eps, pass, passes);
  }
}

// For x' = x / (sum x + eps) along a line: dx = (dx' - sum dx' x') / (sum x + eps).
void normalize_backward(Lanes* dc, int64_t n, int64_t line, int64_t step, const Lanes* result,
                        const Lanes* divisors) {
  for (int64_t i = 0; i < n; ++i) {
    Lanes* dx = dc + i * line;
    const Lanes* x = result + i * line;
    Lanes dot = dx[0] * x[0];
    for (int64_t m = 1; m < n; ++m) dot = fma(dx[m * step], x[m * step], dot);
    const Lanes factor = splat(1.0f) / divisors[i];
    for (int64_t m = 0; m < n; ++m) dx[m * step] = (dx[m * step] - dot) * factor;
  }
}

// dc: from the gradient of Sinkhorn's result to that of its logits.
void sinkhorn_backward(Lanes* dc, const HyperSplitParams& p, const SinkhornPasses& passes) {
  const int64_t n = p.n;
  for (int64_t pass = num_passes(p) - 1; pass > 0; --pass) {
    const bool columns = pass % 2 != 0;
    normalize_backward(dc, n, columns ? 1 : n, columns ? n : 1, passes.results + pass * n * n,
                       passes.divisors + pass * n);
  }
  for (int64_t j = 0; j < n; ++j) {
    Lanes* dx = dc + j * n;
    const Lanes* x = passes.results + j * n;
    Lanes dot = dx[0] * x[0];
    for (int64_t k = 1; k < n; ++k) dot = fma(dx[k], x[k], dot);
    for (int64_t k = 0; k < n; ++k) dx[k] = x[k] * (dx[k] - dot);
  }
}

void hyper_split_lanes(const HyperSplitParams& p, int64_t first_row, int64_t last_row) {
  const int64_t n = p.n;
  for (int64_t first = first_row; first < last_row; first += kLanes) {
    const SplitRows in(p, first, last_row);
    for (int64_t j = 0; j < n; ++j) {
      store_column(p.pre + first * n, n, j, in.rows, sigmoid(in.logit(j, 0)) + splat(p.hc_eps));
    }
    for (int64_t k = 0; k < n; ++k) {
      store_column(p.post + first * n, n, k, in.rows, splat(2.0f) * sigmoid(in.logit(n + k, 1)));
    }
    Lanes c[kMaxStreams * kMaxStreams];
    for (int64_t i = 0; i < n * n; ++i) c[i] = in.logit(2 * n + i, 2);
    if (p.kind == HyperKind::mhc) {
      sinkhorn(c, p, SinkhornPasses{});
    } else {
      for (int64_t j = 0; j < n; ++j) c[j * n + j] = c[j * n + j] + splat(1.0f);
    }
    for (int64_t i = 0; i < n * n; ++i)
      store_column(p.comb + first * n * n, n * n, i, in.rows, c[i]);
  }
}

void hyper_split_backward_lanes(const HyperSplitParams& p, const HyperSplitGradients& g,
                                const HyperSplitScratch& scratch, int64_t first_row,
                                int64_t last_row) {
  const int64_t n = p.n;
  auto* lanes = reinterpret_cast<Lanes*>(scratch.passes);
  const SinkhornPasses passes{lanes, lanes + num_passes(p) * n * n};
  const Lanes one = splat(1.0f);
  for (int64_t first = first_row; first < last_row; first += kLanes) {
    const SplitRows in(p, first, last_row);
    Lanes d_logits[2 * kMaxStreams + kMaxStreams * kMaxStreams];
    for (int64_t j = 0; j < n; ++j) {
      const Lanes s = sigmoid(in.logit(j, 0));
      d_logits[j] = load_column(g.d_pre + first * n, n, j, in.rows) * (s * (one - s));
    }
    for (int64_t k = 0; k < n; ++k) {
      const Lanes s = sigmoid(in.logit(n + k, 1));
      d_logits[n + k] =
          splat(2.0f) * load_column(g.d_post + first * n, n, k, in.rows) * (s * (one - s));
    }
    Lanes* d_comb = d_logits + 2 * n;
    for (int64_t i = 0; i < n * n; ++i) {
      d_comb[i] = load_column(g.d_comb + first * n * n, n * n, i, in.rows);
    }
    if (p.kind == HyperKind::mhc) {
      Lanes c[kMaxStreams * kMaxStreams];
      for (int64_t i = 0; i < n * n; ++i) c[i] = in.logit(2 * n + i, 2);
      sinkhorn(c, p, passes);
      sinkhorn_backward(d_comb, p, passes);
    }
    const int64_t part_end[3] = {n, 2 * n, in.width};
    Lanes d_inv_rms = splat(0.0f);
    for (int64_t part = 0, i = 0; part < 3; ++part) {
      const Lanes factor = in.inv_rms * splat(p.scale[part]);
      Lanes dot = splat(0.0f);
      for (; i < part_end[part]; ++i) {
        dot = fma(d_logits[i], in.mix(i), dot);
        add_column(g.d_mixes + first * in.width, in.width, i, in.rows, d_logits[i] * factor);
        store_column(scratch.d_logits + first * in.width, in.width, i, in.rows, d_logits[i]);
      }
      d_inv_rms = fma(dot, splat(p.scale[part]), d_inv_rms);
      store_column(scratch.d_scale + first * 3, 3, part, in.rows, dot * in.inv_rms);
    }
    add_column(g.d_inv_rms + first, 1, 0, in.rows, d_inv_rms);
  }
}

}  // namespace
}  // namespace cachalot::ops
