// The mHC operations over F32x16 (elementwise/f32x16_*.h, included before this file).
#pragma once

#include "ops/hyper/hyper_connection_kernels.h"
#include "ops/norm/sum_squares_simd.h"

namespace cachalot::ops {
namespace {

void hyper_inv_rms_simd(const float* streams, int64_t first_row, int64_t last_row, int64_t columns,
                        float eps, float* inv_rms) {
  for (int64_t row = first_row; row < last_row; ++row) {
    const float mean =
        sum_squares_simd(streams + row * columns, columns) / static_cast<float>(columns);
    inv_rms[row] = 1.0f / __builtin_sqrtf(mean + eps);
  }
}

void hyper_pre_simd(const HyperPreParams& p, const Tile& tile) {
  for (int64_t row = tile.first_row; row < tile.last_row; ++row) {
    const float* x = p.streams + row * p.n * p.d;
    const float* pre = p.pre + row * p.n;
    for (int64_t i = tile.first_column; i < tile.last_column; i += 16) {
      const int64_t left = tile.last_column - i;
      F32x16 u = splat(pre[0]) * load_first(x + i, left);
      for (int64_t j = 1; j < p.n; ++j) {
        u = fma(splat(pre[j]), load_first(x + j * p.d + i, left), u);
      }
      store_first(p.u + row * p.d + i, left, p.round_u ? round_to_bf16(u) : u);
    }
  }
}

// kStreams streams, known here so that the old values stay in registers (out may be where they were
// read from); 0: as many as p says.
template <int64_t kStreams>
void hyper_post_tile(const HyperPostParams& p, const Tile& tile) {
  const int64_t n = kStreams == 0 ? p.n : kStreams;
  for (int64_t row = tile.first_row; row < tile.last_row; ++row) {
    const float* x = p.streams + row * n * p.d;
    float* out = p.out + row * n * p.d;
    const float* post = p.post + row * n;
    const float* comb = p.comb + row * n * n;
    for (int64_t i = tile.first_column; i < tile.last_column; i += 16) {
      const int64_t left = tile.last_column - i;
      const F32x16 y = load_first(p.y + row * p.d + i, left);
      F32x16 old[kStreams == 0 ? kMaxStreams : kStreams];
#pragma GCC unroll 4
      for (int64_t j = 0; j < n; ++j) old[j] = load_first(x + j * p.d + i, left);
#pragma GCC unroll 4
      for (int64_t k = 0; k < n; ++k) {
        F32x16 value = splat(post[k]) * y;
#pragma GCC unroll 4
        for (int64_t j = 0; j < n; ++j) value = fma(splat(comb[j * n + k]), old[j], value);
        store_first(out + k * p.d + i, left, p.round_x ? round_to_bf16(value) : value);
      }
    }
  }
}

void hyper_post_simd(const HyperPostParams& p, const Tile& tile) {
  if (p.n == 4) {
    hyper_post_tile<4>(p, tile);
  } else {
    hyper_post_tile<0>(p, tile);
  }
}

}  // namespace
}  // namespace cachalot::ops
