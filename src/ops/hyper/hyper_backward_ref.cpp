#include <cmath>

#include "ops/elementwise/fold16.h"
#include "ops/hyper/hyper_connection_kernels.h"

namespace cachalot::ops {
namespace {

float dot(const float* a, const float* b, int64_t n) {
  float chains[16] = {};
  for (int64_t i = 0; i < n; ++i) chains[i % 16] = std::fma(a[i], b[i], chains[i % 16]);
  return fold16(chains);
}

}  // namespace

void hyper_inv_rms_backward_ref(const float* streams, const float* inv_rms, const float* d_inv_rms,
                                int64_t first_row, int64_t last_row, int64_t columns,
                                float* d_streams) {
  for (int64_t row = first_row; row < last_row; ++row) {
    const float factor = hyper_inv_rms_factor(inv_rms[row], d_inv_rms[row], columns);
    for (int64_t i = row * columns; i < (row + 1) * columns; ++i) {
      d_streams[i] = std::fma(factor, streams[i], d_streams[i]);
    }
  }
}

void hyper_pre_backward_ref(const HyperPreBackwardParams& p, int64_t first_row, int64_t last_row) {
  for (int64_t row = first_row; row < last_row; ++row) {
    const float* d_u = p.d_u + row * p.d;
    for (int64_t j = 0; j < p.n; ++j) {
      const int64_t stream = row * p.n + j;
      p.d_pre[stream] += dot(d_u, p.streams + stream * p.d, p.d);
      float* d_x = p.d_streams + stream * p.d;
      for (int64_t i = 0; i < p.d; ++i) d_x[i] = std::fma(p.pre[stream], d_u[i], d_x[i]);
    }
  }
}

void hyper_post_backward_ref(const HyperPostBackwardParams& p, int64_t first_row,
                             int64_t last_row) {
  for (int64_t row = first_row; row < last_row; ++row) {
    const float* d_out = p.d_out + row * p.n * p.d;
    const float* y = p.y + row * p.d;
    float* d_y = p.d_y + row * p.d;
    for (int64_t k = 0; k < p.n; ++k) {
      p.d_post[row * p.n + k] += dot(y, d_out + k * p.d, p.d);
      for (int64_t i = 0; i < p.d; ++i) {
        d_y[i] = std::fma(p.post[row * p.n + k], d_out[k * p.d + i], d_y[i]);
      }
    }
    for (int64_t j = 0; j < p.n; ++j) {
      const float* x = p.streams + (row * p.n + j) * p.d;
      float* d_x = p.d_streams + (row * p.n + j) * p.d;
      const float* comb = p.comb + (row * p.n + j) * p.n;
      for (int64_t k = 0; k < p.n; ++k) {
        p.d_comb[(row * p.n + j) * p.n + k] += dot(x, d_out + k * p.d, p.d);
        for (int64_t i = 0; i < p.d; ++i) d_x[i] = std::fma(comb[k], d_out[k * p.d + i], d_x[i]);
      }
    }
  }
}

}  // namespace cachalot::ops
