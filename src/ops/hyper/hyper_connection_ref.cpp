#include <cmath>

#include "numeric/formats.h"
#include "ops/hyper/hyper_connection_kernels.h"
#include "ops/norm/rms_norm_kernels.h"

namespace cachalot::ops {

void hyper_inv_rms_ref(const float* streams, int64_t first_row, int64_t last_row, int64_t columns,
                       float eps, float* inv_rms) {
  for (int64_t row = first_row; row < last_row; ++row) {
    const float mean =
        sum_squares_ref(streams + row * columns, columns) / static_cast<float>(columns);
    inv_rms[row] = 1.0f / std::sqrt(mean + eps);
  }
}

void hyper_pre_ref(const HyperPreParams& p, const Tile& tile) {
  for (int64_t row = tile.first_row; row < tile.last_row; ++row) {
    const float* x = p.streams + row * p.n * p.d;
    const float* pre = p.pre + row * p.n;
    for (int64_t i = tile.first_column; i < tile.last_column; ++i) {
      float u = pre[0] * x[i];
      for (int64_t j = 1; j < p.n; ++j) u = std::fma(pre[j], x[j * p.d + i], u);
      p.u[row * p.d + i] = p.round_u ? numeric::round_to_bf16(u) : u;
    }
  }
}

void hyper_post_ref(const HyperPostParams& p, const Tile& tile) {
  for (int64_t row = tile.first_row; row < tile.last_row; ++row) {
    const float* x = p.streams + row * p.n * p.d;
    float* out = p.out + row * p.n * p.d;
    const float* post = p.post + row * p.n;
    const float* comb = p.comb + row * p.n * p.n;
    for (int64_t i = tile.first_column; i < tile.last_column; ++i) {
      const float y = p.y[row * p.d + i];
      float old[kMaxStreams];
      for (int64_t j = 0; j < p.n; ++j) old[j] = x[j * p.d + i];
      for (int64_t k = 0; k < p.n; ++k) {
        float value = post[k] * y;
        for (int64_t j = 0; j < p.n; ++j) value = std::fma(comb[j * p.n + k], old[j], value);
        out[k * p.d + i] = p.round_x ? numeric::round_to_bf16(value) : value;
      }
    }
  }
}

}  // namespace cachalot::ops
