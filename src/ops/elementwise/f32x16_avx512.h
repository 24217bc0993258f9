// Sixteen floats as one AVX-512 vector, with the functions of f32x16_avx2.h: the kernels that are
// written once (*_simd.h) take either. Included by *_avx512.cpp files only; everything is local to
// the file that includes it.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "ops/elementwise/exp_avx512.h"

namespace cachalot::ops {
namespace {

struct F32x16 {
  __m512 v;
};

inline F32x16 splat(float value) { return {_mm512_set1_ps(value)}; }
inline F32x16 splat_bits(uint32_t bits) {
  return {_mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(bits)))};
}

inline F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }

inline __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

// The first n of 16 (all where n >= 16); lanes that are left out are zero and their memory is not
// touched.
inline F32x16 load_first(const float* p, int64_t n) {
  if (n >= 16) return load(p);
  return {_mm512_maskz_loadu_ps(first_lanes(n), p)};
}
inline void store_first(float* p, int64_t n, F32x16 a) {
  if (n >= 16) return store(p, a);
  _mm512_mask_storeu_ps(p, first_lanes(n), a.v);
}

inline F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32x16 operator&(F32x16 a, F32x16 b) { return {_mm512_and_ps(a.v, b.v)}; }
inline F32x16 operator|(F32x16 a, F32x16 b) { return {_mm512_or_ps(a.v, b.v)}; }
inline F32x16 operator^(F32x16 a, F32x16 b) { return {_mm512_xor_ps(a.v, b.v)}; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// Where either is NaN, the second: min(bound, x) keeps a NaN x, max(x, so_far) ignores it.
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
// x, but 0 in the lanes where a > b.
inline F32x16 zero_where_greater(F32x16 x, F32x16 a, F32x16 b) {
  return {_mm512_mask_mov_ps(x.v, _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ), _mm512_setzero_ps())};
}
inline F32x16 exp(F32x16 x) { return {exp_f32x16(x.v)}; }

inline F32x16 round_to_bf16(F32x16 x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i y = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  y = _mm512_mask_or_epi32(y, nan, bits, _mm512_set1_epi32(0x400000));
  return {
      _mm512_castsi512_ps(_mm512_and_si512(y, _mm512_set1_epi32(static_cast<int>(0xFFFF0000))))};
}

// Lane i + lane i + 8, then + 4, + 2, + 1.
inline float fold_sum(F32x16 a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float fold_max(F32x16 a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// Pairs of lanes (2i, 2i + 1).
inline F32x16 even_twice(F32x16 a) { return {_mm512_moveldup_ps(a.v)}; }
inline F32x16 odd_twice(F32x16 a) { return {_mm512_movehdup_ps(a.v)}; }
inline F32x16 even_then_odd(F32x16 even, F32x16 odd) {
  return {_mm512_mask_mov_ps(even.v, 0xAAAA, odd.v)};
}
// The first n (at most 8) values at p, each in both lanes of its pair.
inline F32x16 load_pairs(const float* p, int64_t n) {
  const __mmask16 lanes = n >= 8 ? 0xFF : first_lanes(n);
  const __m512i pairs = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  return {_mm512_permutexvar_ps(pairs, _mm512_maskz_loadu_ps(lanes, p))};
}

// Butterflies (u, v) -> (u + v, u - v) over lanes 1, 2, 4 and 8 apart, in this order.
inline F32x16 butterflies(F32x16 a) {
  const __m512 sign = _mm512_set1_ps(-0.0f);
  __m512 v = a.v;
  v = _mm512_add_ps(_mm512_permute_ps(v, 0xB1), _mm512_mask_xor_ps(v, 0xAAAA, v, sign));
  v = _mm512_add_ps(_mm512_permute_ps(v, 0x4E), _mm512_mask_xor_ps(v, 0xCCCC, v, sign));
  v = _mm512_add_ps(_mm512_shuffle_f32x4(v, v, 0xB1), _mm512_mask_xor_ps(v, 0xF0F0, v, sign));
  v = _mm512_add_ps(_mm512_shuffle_f32x4(v, v, 0x4E), _mm512_mask_xor_ps(v, 0xFF00, v, sign));
  return {v};
}

// Sixteen bf16 values at any address.
inline F32x16 decode_bf16x16(const std::byte* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
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
  return {_mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f))};
}

// Sixteen e2m1 codes, the low nibble of a byte first.
inline F32x16 decode_e2m1x16(const std::byte* p) {
  const __m512 values = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f,
                                       -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f);
  const __m512i shifts =
      _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
  int32_t packed[2];
  __builtin_memcpy(packed, p, sizeof(packed));
  const __m512i words =
      _mm512_inserti64x4(_mm512_set1_epi32(packed[0]), _mm256_set1_epi32(packed[1]), 1);
  return {_mm512_permutexvar_ps(_mm512_srlv_epi32(words, shifts), values)};
}

}  // namespace
}  // namespace cachalot::ops
