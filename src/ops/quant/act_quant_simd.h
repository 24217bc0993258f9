// The activation roundings over F32x16 (elementwise/f32x16_*.h, included before this file).
#pragma once

#include "ops/quant/act_quant_kernels.h"

namespace cachalot::ops {
namespace {

inline F32x16 magnitude_of(F32x16 x) { return x & splat_bits(0x7FFFFFFF); }

// Rounds |v| to a float format of few mantissa bits and puts back v's sign. The step at |v| is
// step_factor * 2^exponent, where the exponent is v's or, among the format's subnormals, that of
// min_normal; adding and taking away 2^23 steps rounds to nearest even. |v| is at most the format's
// largest value, or NaN, which stays.
inline F32x16 snap(F32x16 v, F32x16 largest, F32x16 min_normal, F32x16 steps_2_23) {
  const F32x16 magnitude = min(largest, magnitude_of(v));
  const F32x16 shift = max(magnitude & splat_bits(0x7F800000), min_normal) * steps_2_23;
  return ((magnitude + shift) - shift) | (v & splat(-0.0f));
}

inline float max_magnitude_simd(const float* x, int64_t n) {
  F32x16 so_far = splat(0.0f);
  for (int64_t i = 0; i < n; i += 16) so_far = max(magnitude_of(load_first(x + i, n - i)), so_far);
  return fold_max(so_far);
}

// 2^e of reference/forward 0.4 for a block whose largest magnitude is amax.
inline float block_scale(float amax, float floor, float inv_format_max) {
  const float u = (amax > floor ? amax : floor) * inv_format_max;
  const auto bits = __builtin_bit_cast(uint32_t, u);
  const uint32_t biased = (bits >> 23) + ((bits & 0x7FFFFF) != 0 ? 1 : 0);
  constexpr uint32_t kMaxBiased = kMaxScaleExponent + 127;
  return __builtin_bit_cast(float, (biased < kMaxBiased ? biased : kMaxBiased) << 23);
}

// The inverse of a power of two is exact, 2^-127 being a subnormal: products with it equal the
// quotients.
inline void snap_block(const float* x, float* y, int64_t n, float scale, F32x16 largest,
                       F32x16 min_normal, F32x16 steps_2_23) {
  const F32x16 factor = splat(scale);
  const F32x16 inverse = splat(1.0f / scale);
  for (int64_t i = 0; i < n; i += 16) {
    const F32x16 v = load_first(x + i, n - i) * inverse;
    store_first(y + i, n - i, snap(v, largest, min_normal, steps_2_23) * factor);
  }
}

void simulate_fp8_simd(const RowsParams& p, int64_t block, float amax_floor, int64_t first_row,
                       int64_t last_row) {
  // e4m3: steps of 2^(exponent - 3), smallest normal 2^-6.
  const F32x16 largest = splat(448.0f);
  const F32x16 min_normal = splat(0x1p-6f);
  const F32x16 steps_2_23 = splat(0x1p20f);
  for (int64_t row = first_row; row < last_row; ++row) {
    for (int64_t begin = 0; begin < p.columns; begin += block) {
      const float* x = p.input(row) + begin;
      const int64_t n = block < p.columns - begin ? block : p.columns - begin;
      const float scale = block_scale(max_magnitude_simd(x, n), amax_floor, kInvE4m3Max);
      snap_block(x, p.row(row) + begin, n, scale, largest, min_normal, steps_2_23);
    }
  }
}

void simulate_fp4_simd(const RowsParams& p, int64_t first_row, int64_t last_row) {
  // e2m1: steps of 2^(exponent - 1), smallest normal 1.
  const F32x16 largest = splat(6.0f);
  const F32x16 min_normal = splat(1.0f);
  const F32x16 steps_2_23 = splat(0x1p22f);
  for (int64_t row = first_row; row < last_row; ++row) {
    for (int64_t begin = 0; begin < p.columns; begin += 32) {
      const float* x = p.input(row) + begin;
      const float scale = block_scale(max_magnitude_simd(x, 32), kFp4AmaxFloor, kInvE2m1Max);
      snap_block(x, p.row(row) + begin, 32, scale, largest, min_normal, steps_2_23);
    }
  }
}

void hadamard_simd(const RowsParams& p, float factor, bool round_bf16, int64_t first_row,
                   int64_t last_row) {
  if (p.columns < 16) return hadamard_ref(p, factor, round_bf16, first_row, last_row);
  const F32x16 last_factor = splat(factor);
  for (int64_t row = first_row; row < last_row; ++row) {
    float* x = p.row(row);
    for (int64_t i = 0; i < p.columns; i += 16) store(x + i, butterflies(load(x + i)));
    for (int64_t stride = 16; stride < p.columns; stride *= 2) {
      for (int64_t begin = 0; begin < p.columns; begin += 2 * stride) {
        for (int64_t i = begin; i < begin + stride; i += 16) {
          const F32x16 u = load(x + i);
          const F32x16 v = load(x + i + stride);
          store(x + i, u + v);
          store(x + i + stride, u - v);
        }
      }
    }
    for (int64_t i = 0; i < p.columns; i += 16) {
      const F32x16 y = load(x + i) * last_factor;
      store(x + i, round_bf16 ? round_to_bf16(y) : y);
    }
  }
}

void round_bf16_simd(const RowsParams& p, int64_t first_row, int64_t last_row) {
  for (int64_t row = first_row; row < last_row; ++row) {
    const float* x = p.input(row);
    float* y = p.row(row);
    for (int64_t i = 0; i < p.columns; i += 16) {
      const int64_t left = p.columns - i;
      store_first(y + i, left, round_to_bf16(load_first(x + i, left)));
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
