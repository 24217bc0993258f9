// Sixteen floats, here as two AVX2 vectors: the vector of the kernels that are written once
// (*_simd.h) and compiled for AVX2 and AVX-512. Sixteen is also the number of chains of the ops'
// sums (norm/rms_norm.h), so a vector holds one value of each. Included by *_avx2.cpp files only;
// everything is local to the file that includes it, because its machine code is.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "ops/elementwise/exp_avx2.h"

namespace cachalot::ops {
namespace {

struct F32x16 {
  __m256 lo, hi;
};

inline F32x16 splat(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline F32x16 splat_bits(uint32_t bits) {
  const __m256 v = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(bits)));
  return {v, v};
}

inline F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F32x16 v) {
  _mm256_storeu_ps(p, v.lo);
  _mm256_storeu_ps(p + 8, v.hi);
}

// Masks of the first n lanes: 16 ones, then 16 zeros, read from 16 - n on.
alignas(64) constexpr int32_t kFirstLanes[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                                 -1, -1, -1, -1, -1, 0,  0,  0,  0,  0,  0,
                                                 0,  0,  0,  0,  0,  0,  0,  0,  0,  0};
inline __m256i first_lanes(int64_t n, int64_t part) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kFirstLanes + 16 - n + 8 * part));
}

// The first n of 16 (all where n >= 16); lanes that are left out are zero and their memory is not
// touched.
inline F32x16 load_first(const float* p, int64_t n) {
  if (n >= 16) return load(p);
  return {_mm256_maskload_ps(p, first_lanes(n, 0)), _mm256_maskload_ps(p + 8, first_lanes(n, 1))};
}
inline void store_first(float* p, int64_t n, F32x16 v) {
  if (n >= 16) return store(p, v);
  _mm256_maskstore_ps(p, first_lanes(n, 0), v.lo);
  _mm256_maskstore_ps(p + 8, first_lanes(n, 1), v.hi);
}

inline F32x16 operator+(F32x16 a, F32x16 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
inline F32x16 operator-(F32x16 a, F32x16 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
inline F32x16 operator*(F32x16 a, F32x16 b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
inline F32x16 operator/(F32x16 a, F32x16 b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
inline F32x16 operator&(F32x16 a, F32x16 b) {
  return {_mm256_and_ps(a.lo, b.lo), _mm256_and_ps(a.hi, b.hi)};
}
inline F32x16 operator|(F32x16 a, F32x16 b) {
  return {_mm256_or_ps(a.lo, b.lo), _mm256_or_ps(a.hi, b.hi)};
}
inline F32x16 operator^(F32x16 a, F32x16 b) {
  return {_mm256_xor_ps(a.lo, b.lo), _mm256_xor_ps(a.hi, b.hi)};
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
// Where either is NaN, the second: min(bound, x) keeps a NaN x, max(x, so_far) ignores it.
inline F32x16 min(F32x16 a, F32x16 b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
inline F32x16 max(F32x16 a, F32x16 b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
// x, but 0 in the lanes where a > b.
inline F32x16 zero_where_greater(F32x16 x, F32x16 a, F32x16 b) {
  return {_mm256_andnot_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ), x.lo),
          _mm256_andnot_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ), x.hi)};
}
inline F32x16 exp(F32x16 x) { return {exp_f32x8(x.lo), exp_f32x8(x.hi)}; }

inline __m256 round_to_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  const __m256 y = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), nan);
  return _mm256_and_ps(y, _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(0xFFFF0000))));
}
inline F32x16 round_to_bf16(F32x16 x) { return {round_to_bf16(x.lo), round_to_bf16(x.hi)}; }

// Lane i + lane i + 8, then + 4, + 2, + 1.
inline float fold_sum(F32x16 v) {
  const __m256 eight = _mm256_add_ps(v.lo, v.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float fold_max(F32x16 v) {
  const __m256 eight = _mm256_max_ps(v.lo, v.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// Pairs of lanes (2i, 2i + 1).
inline F32x16 even_twice(F32x16 v) { return {_mm256_moveldup_ps(v.lo), _mm256_moveldup_ps(v.hi)}; }
inline F32x16 odd_twice(F32x16 v) { return {_mm256_movehdup_ps(v.lo), _mm256_movehdup_ps(v.hi)}; }
inline F32x16 even_then_odd(F32x16 even, F32x16 odd) {
  return {_mm256_blend_ps(even.lo, odd.lo, 0xAA), _mm256_blend_ps(even.hi, odd.hi, 0xAA)};
}
// The first n (at most 8) values at p, each in both lanes of its pair.
inline F32x16 load_pairs(const float* p, int64_t n) {
  const __m256 v = n >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, first_lanes(n, 0));
  return {_mm256_permutevar8x32_ps(v, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)),
          _mm256_permutevar8x32_ps(v, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7))};
}

// Butterflies (u, v) -> (u + v, u - v) over lanes 1, 2, 4 and 8 apart, in this order.
inline __m256 butterflies8(__m256 v) {
  const __m256 sign1 = _mm256_setr_ps(0.0f, -0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f, -0.0f);
  const __m256 sign2 = _mm256_setr_ps(0.0f, 0.0f, -0.0f, -0.0f, 0.0f, 0.0f, -0.0f, -0.0f);
  const __m256 sign4 = _mm256_setr_ps(0.0f, 0.0f, 0.0f, 0.0f, -0.0f, -0.0f, -0.0f, -0.0f);
  v = _mm256_add_ps(_mm256_permute_ps(v, 0xB1), _mm256_xor_ps(v, sign1));
  v = _mm256_add_ps(_mm256_permute_ps(v, 0x4E), _mm256_xor_ps(v, sign2));
  return _mm256_add_ps(_mm256_permute2f128_ps(v, v, 0x01), _mm256_xor_ps(v, sign4));
}
inline F32x16 butterflies(F32x16 v) {
  const __m256 u = butterflies8(v.lo);
  const __m256 w = butterflies8(v.hi);
  return {_mm256_add_ps(u, w), _mm256_sub_ps(u, w)};
}

// Sixteen bf16 values at any address.
inline F32x16 decode_bf16x16(const std::byte* p) {
  const auto widen = [](__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  };
  return {widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16)))};
}

// Sixteen e4m3 codes. Shifted into fp16's fields a code is 2^-8 times its value, subnormals
// included.
inline F32x16 decode_e4m3x16(const std::byte* p) {
  const __m256i codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(0x80)), 8);
  __m256i half = _mm256_slli_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(0x7F)), 7);
  const __m256i nan = _mm256_cmpeq_epi16(half, _mm256_set1_epi16(0x7F << 7));
  half = _mm256_or_si256(half, _mm256_and_si256(nan, _mm256_set1_epi16(0x7E00)));
  half = _mm256_or_si256(half, sign);
  const __m256 factor = _mm256_set1_ps(256.0f);
  return {_mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(half)), factor),
          _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(half, 1)), factor)};
}

// Sixteen e2m1 codes, the low nibble of a byte first.
inline F32x16 decode_e2m1x16(const std::byte* p) {
  const __m256 magnitudes = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
  const __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
  const auto widen = [&](const std::byte* four) {
    int32_t packed;
    __builtin_memcpy(&packed, four, sizeof(packed));
    const __m256i codes = _mm256_srlv_epi32(_mm256_set1_epi32(packed), shifts);
    const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(codes, _mm256_set1_epi32(8)), 28);
    return _mm256_or_ps(_mm256_permutevar8x32_ps(magnitudes, codes), _mm256_castsi256_ps(sign));
  };
  return {widen(p), widen(p + 4)};
}

}  // namespace
}  // namespace cachalot::ops
