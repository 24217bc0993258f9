// prepare_simd.h's tiles of rows as pairs of bf16 for vdpbf16ps, 32 inputs of a row at a time.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "ops/matmul/prepare_simd.h"

namespace cachalot::ops {
namespace {

// 16 pairs from the first `count` of 32 inputs, and zeros: x holds bf16 values, so the conversion
// only moves them (a denormal counts as zero, as it does in the product).
inline __m512i load_pairs(const float* x, int64_t count) {
  const uint32_t mask = count >= 32 ? ~0u : (1u << count) - 1;
  const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x);
  const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + 16);
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// Four rows of 16 pairs to t[j] = pairs j, 4 + j, 8 + j and 12 + j, each of four rows.
inline void transpose_by_four(const __m512i v[4], __m512i t[4]) {
  const __m512i low01 = _mm512_unpacklo_epi32(v[0], v[1]),
                low23 = _mm512_unpacklo_epi32(v[2], v[3]);
  const __m512i high01 = _mm512_unpackhi_epi32(v[0], v[1]);
  const __m512i high23 = _mm512_unpackhi_epi32(v[2], v[3]);
  t[0] = _mm512_unpacklo_epi64(low01, low23);
  t[1] = _mm512_unpackhi_epi64(low01, low23);
  t[2] = _mm512_unpacklo_epi64(high01, high23);
  t[3] = _mm512_unpackhi_epi64(high01, high23);
}

struct PairElements {
  static constexpr int kInputs = 2;
  static constexpr int64_t kAtOnce = 16;  // pairs

  template <int kRows>
  static __attribute__((noinline)) void tile(const float* const* rows, int64_t num_inputs,
                                             int64_t num_pairs, float* out) {
    for (int64_t begin = 0; begin < num_pairs; begin += kAtOnce, out += kAtOnce * kRows) {
      __m512i v[8];
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) {
        const int64_t left = num_inputs - 2 * begin;
        v[r] = r < kRows ? load_pairs(rows[r] + 2 * begin, left > 0 ? left : 0)
                         : _mm512_setzero_si512();
      }
      const int64_t count = num_pairs - begin < kAtOnce ? num_pairs - begin : kAtOnce;
      if constexpr (kRows == 1) {
        _mm512_mask_storeu_epi32(out, static_cast<__mmask16>((1u << count) - 1), v[0]);
      } else {
        alignas(64) float joined[kAtOnce * kRows + 8];
        float* to = count == kAtOnce && begin + kAtOnce < num_pairs ? out : joined;
        store_transposed<kRows>(v, to);
        if (to == joined) __builtin_memcpy(out, joined, sizeof(float) * count * kRows);
      }
    }
  }

 private:
  // [16][kRows], and up to seven values behind them that the next call overwrites.
  template <int kRows>
  static void store_transposed(const __m512i v[8], float* out) {
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    __m512i low[4], high[4], halves[2][4];
    transpose_by_four(v, low);
    transpose_by_four(v + 4, high);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {  // pairs j and 4 + j, then 8 + j and 12 + j, each of eight rows
      halves[0][j] = _mm512_permutex2var_epi64(low[j], first, high[j]);
      halves[1][j] = _mm512_permutex2var_epi64(low[j], second, high[j]);
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 2
        for (int j = 0; j < 4; j += 2) {
          const __m512i two = half == 0
                                  ? _mm512_shuffle_i64x2(halves[h][j], halves[h][j + 1], 0x44)
                                  : _mm512_shuffle_i64x2(halves[h][j], halves[h][j + 1], 0xEE);
          float* to = out + (8 * h + 4 * half + j) * kRows;
          if constexpr (kRows == 8) {
            _mm512_storeu_si512(to, two);
          } else {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(two));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + kRows),
                                _mm512_extracti64x4_epi64(two, 1));
          }
        }
      }
    }
  }
};

}  // namespace
}  // namespace cachalot::ops
