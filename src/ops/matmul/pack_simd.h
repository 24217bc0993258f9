// Rows of floats into the panels of panel.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "ops/matmul/prepare_simd.h"

namespace cachalot::ops {
namespace {

// bf16 of each float, nearest even and NaN quiet, in the high half of its lane; the low half is
// garbage.
inline __m128i round_to_high_half(__m128 v) {
  const __m128i bits = _mm_castps_si128(v);
  const __m128i odd = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(1));
  const __m128i rounded = _mm_add_epi32(_mm_add_epi32(bits, _mm_set1_epi32(0x7FFF)), odd);
  const __m128i quiet = _mm_or_si128(bits, _mm_set1_epi32(0x00400000));
  return _mm_blendv_epi8(rounded, quiet, _mm_castps_si128(_mm_cmpunord_ps(v, v)));
}

inline __m128 rounded_pairs(__m128 even, __m128 odd) {
  const __m128i low = _mm_srli_epi32(round_to_high_half(even), 16);
  const __m128i high =
      _mm_and_si128(round_to_high_half(odd), _mm_set1_epi32(static_cast<int>(0xFFFF0000)));
  return _mm_castsi128_ps(_mm_or_si128(low, high));
}

struct RoundedPairElements {
  static constexpr int kInputs = 2;
  static __m128 load(const float* row, int64_t count) {
    const __m128 a = load_up_to_4(row, count), b = load_up_to_4(row + 4, count - 4);
    return rounded_pairs(_mm_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0)),
                         _mm_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1)));
  }
};

// panel[e * width + lane] = element e of row `lane`. Sixteen lanes at a time, so that what is
// written is whole cache lines, and of each row a whole line: sixteen rows to read at once are few
// enough for the processor to see their streams coming.
template <typename Elements>
void pack_transposed(const float* rows, int64_t stride, int64_t n, int64_t k, int64_t width,
                     float* panel) {
  constexpr int kInputs = Elements::kInputs;
  constexpr int64_t kLine = 16 / kInputs;
  const int64_t count = (k + kInputs - 1) / kInputs;
  const auto transpose4 = [&](int64_t lane, int64_t begin) {
    __m128 v[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const int64_t left = lane + r < n ? k - begin * kInputs : 0;
      v[r] = Elements::load(left > 0 ? rows + (lane + r) * stride + begin * kInputs : rows, left);
    }
    _MM_TRANSPOSE4_PS(v[0], v[1], v[2], v[3]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      if (begin + i < count) _mm_storeu_ps(panel + (begin + i) * width + lane, v[i]);
    }
  };
  for (int64_t lanes = 0; lanes < width; lanes += 16) {
    for (int64_t line = 0; line < count; line += kLine) {
      const int64_t end = line + kLine < count ? line + kLine : count;
      for (int64_t lane = lanes; lane < lanes + 16; lane += 4) {
        for (int64_t begin = line; begin < end; begin += 4) transpose4(lane, begin);
      }
    }
  }
}

void pack_rows_transposed_f32(const float* rows, int64_t stride, int64_t n, int64_t k,
                              int64_t width, float* panel) {
  pack_transposed<FloatElements>(rows, stride, n, k, width, panel);
}

void pack_rows_transposed_bf16(const float* rows, int64_t stride, int64_t n, int64_t k,
                               int64_t width, uint16_t* panel) {
  pack_transposed<RoundedPairElements>(rows, stride, n, k, width, reinterpret_cast<float*>(panel));
}

void pack_rows_f32(const float* rows, int64_t stride, int64_t n, int64_t k, int64_t width,
                   float* panel) {
  for (int64_t j = 0; j < k; ++j, rows += stride, panel += width) {
    for (int64_t lane = 0; lane < width; lane += 4)
      _mm_storeu_ps(panel + lane, load_up_to_4(rows + lane, n - lane));
  }
}

void pack_rows_bf16(const float* rows, int64_t stride, int64_t n, int64_t k, int64_t width,
                    uint16_t* panel) {
  for (int64_t j = 0; j < k; j += 2, rows += 2 * stride, panel += 2 * width) {
    const float* odd_row = j + 1 < k ? rows + stride : rows;
    const int64_t odd_n = j + 1 < k ? n : 0;
    for (int64_t lane = 0; lane < width; lane += 4) {
      const __m128 even = load_up_to_4(rows + lane, n - lane),
                   odd = load_up_to_4(odd_row + lane, odd_n - lane);
      _mm_storeu_ps(reinterpret_cast<float*>(panel + 2 * lane), rounded_pairs(even, odd));
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
