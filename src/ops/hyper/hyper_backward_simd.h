// The backward of the mHC operations over F32x16 (elementwise/f32x16_*.h, included before this
// file).
#pragma once

#include "ops/hyper/hyper_connection_kernels.h"

namespace cachalot::ops {
namespace {

void hyper_inv_rms_backward_simd(const float* streams, const float* inv_rms, const float* d_inv_rms,
                                 int64_t first_row, int64_t last_row, int64_t columns,
                                 float* d_streams) {
  for (int64_t row = first_row; row < last_row; ++row) {
    const F32x16 factor = splat(hyper_inv_rms_factor(inv_rms[row], d_inv_rms[row], columns));
    const float* x = streams + row * columns;
    float* d_x = d_streams + row * columns;
    for (int64_t i = 0; i < columns; i += 16) {
      const int64_t left = columns - i;
      store_first(d_x + i, left, fma(factor, load_first(x + i, left), load_first(d_x + i, left)));
    }
  }
}

// d_a += sum_k w[k] d_out_k and chains[k] += a . d_out_k over `columns` columns: what both sides of
// hyper_post's products need. kStreams as in hyper_post_tile.
template <int64_t kStreams>
void add_products_backward(const float* a, const float* weights, const float* d_out, int64_t d,
                           int64_t num_streams, int64_t columns, float* d_a, F32x16* chains) {
  const int64_t n = kStreams == 0 ? num_streams : kStreams;
  F32x16 w[kStreams == 0 ? kMaxStreams : kStreams], sums[kStreams == 0 ? kMaxStreams : kStreams];
#pragma GCC unroll 4
  for (int64_t k = 0; k < n; ++k) w[k] = splat(weights[k]), sums[k] = chains[k];
  for (int64_t i = 0; i < columns; i += 16) {
    const int64_t left = columns - i;
    const F32x16 value = load_first(a + i, left);
    F32x16 gradient = load_first(d_a + i, left);
#pragma GCC unroll 4
    for (int64_t k = 0; k < n; ++k) {
      const F32x16 d_value = load_first(d_out + k * d + i, left);
      gradient = fma(w[k], d_value, gradient);
      sums[k] = fma(value, d_value, sums[k]);
    }
    store_first(d_a + i, left, gradient);
  }
#pragma GCC unroll 4
  for (int64_t k = 0; k < n; ++k) chains[k] = sums[k];
}

// d_out is read once for y and once for each stream: columns go in blocks that stay in the first
// cache, 9 KB at n = 4.
constexpr int64_t kPostBackwardColumns = 256;

template <int64_t kStreams>
void hyper_post_backward_rows(const HyperPostBackwardParams& p, int64_t first_row,
                              int64_t last_row) {
  const int64_t n = kStreams == 0 ? p.n : kStreams;
  for (int64_t row = first_row; row < last_row; ++row) {
    F32x16 d_post[kMaxStreams], d_comb[kMaxStreams * kMaxStreams];
    for (int64_t k = 0; k < n; ++k) d_post[k] = splat(0.0f);
    for (int64_t i = 0; i < n * n; ++i) d_comb[i] = splat(0.0f);
    for (int64_t i = 0; i < p.d; i += kPostBackwardColumns) {
      const int64_t columns = std::min(kPostBackwardColumns, p.d - i);
      const float* d_out = p.d_out + row * n * p.d + i;
      add_products_backward<kStreams>(p.y + row * p.d + i, p.post + row * n, d_out, p.d, n, columns,
                                      p.d_y + row * p.d + i, d_post);
      for (int64_t j = 0; j < n; ++j) {
        const int64_t stream = row * n + j;
        add_products_backward<kStreams>(p.streams + stream * p.d + i, p.comb + stream * n, d_out,
                                        p.d, n, columns, p.d_streams + stream * p.d + i,
                                        d_comb + j * n);
      }
    }
    for (int64_t k = 0; k < n; ++k) p.d_post[row * n + k] += fold_sum(d_post[k]);
    for (int64_t i = 0; i < n * n; ++i) p.d_comb[row * n * n + i] += fold_sum(d_comb[i]);
  }
}

void hyper_post_backward_simd(const HyperPostBackwardParams& p, int64_t first_row,
                              int64_t last_row) {
  if (p.n == 4) {
    hyper_post_backward_rows<4>(p, first_row, last_row);
  } else {
    hyper_post_backward_rows<0>(p, first_row, last_row);
  }
}

void hyper_pre_backward_simd(const HyperPreBackwardParams& p, int64_t first_row, int64_t last_row) {
  for (int64_t row = first_row; row < last_row; ++row) {
    const float* d_u = p.d_u + row * p.d;
    for (int64_t j = 0; j < p.n; ++j) {
      const int64_t stream = row * p.n + j;
      const float* x = p.streams + stream * p.d;
      float* d_x = p.d_streams + stream * p.d;
      const F32x16 pre = splat(p.pre[stream]);
      F32x16 chains = splat(0.0f);
      for (int64_t i = 0; i < p.d; i += 16) {
        const int64_t left = p.d - i;
        const F32x16 gradient = load_first(d_u + i, left);
        chains = fma(gradient, load_first(x + i, left), chains);
        store_first(d_x + i, left, fma(pre, gradient, load_first(d_x + i, left)));
      }
      p.d_pre[stream] += fold_sum(chains);
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
