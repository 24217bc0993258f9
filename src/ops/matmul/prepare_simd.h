// Rows of x in the order that the register tiles read: tiles of up to kRowTile rows (kPairRowTile
// where weights are decoded in registers), evenly filled, each [element][rows]; zeros up to the
// padded k. An element is a float, in the order of the chain
// (bf16 math: the odd input of each pair first, denormals flushed), or a pair of bf16 for
// vdpbf16ps.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace cachalot::ops {
namespace {

constexpr int64_t kRowTile = 6, kPairRowTile = 8;

inline int64_t num_row_tiles(int64_t m, int64_t most = kRowTile) { return (m + most - 1) / most; }
inline int64_t row_tile_begin(int64_t tile, int64_t m, int64_t most = kRowTile) {
  return tile * m / num_row_tiles(m, most);
}

inline __m128 load_up_to_4(const float* row, int64_t count) {
  if (count >= 4) return _mm_loadu_ps(row);
  if (count <= 0) return _mm_setzero_ps();
  return _mm_setr_ps(row[0], count > 1 ? row[1] : 0.0f, count > 2 ? row[2] : 0.0f, 0.0f);
}

template <int kRows, typename Elements>
__attribute__((noinline)) void prepare_tile(const float* const* rows, int64_t num_inputs,
                                            int64_t num_elements, float* out);

// Element kinds: tile() prepares a tile of rows. Of those that go by four of a row, load() gives
// these from kInputs * 4 inputs, of which `count` exist.
template <typename Elements>
struct ByFour {
  template <int kRows>
  static void tile(const float* const* rows, int64_t num_inputs, int64_t num_elements, float* out) {
    prepare_tile<kRows, Elements>(rows, num_inputs, num_elements, out);
  }
};

struct FloatElements : ByFour<FloatElements> {
  static constexpr int kInputs = 1;
  static __m128 load(const float* row, int64_t count) { return load_up_to_4(row, count); }
};

struct OddFirstElements : ByFour<OddFirstElements> {
  static constexpr int kInputs = 1;
  static __m128 load(const float* row, int64_t count) {
    const __m128i bits = _mm_castps_si128(load_up_to_4(row, count));
    const __m128i denormal =
        _mm_cmpeq_epi32(_mm_and_si128(bits, _mm_set1_epi32(0x7F800000)), _mm_setzero_si128());
    const __m128i flushed =
        _mm_andnot_si128(_mm_and_si128(denormal, _mm_set1_epi32(0x7FFFFFFF)), bits);
    return _mm_castsi128_ps(_mm_shuffle_epi32(flushed, _MM_SHUFFLE(2, 3, 0, 1)));
  }
};

template <int kCount>
inline void store_first(float* p, __m128 v) {
  if constexpr (kCount == 4) {
    _mm_storeu_ps(p, v);
  } else if constexpr (kCount == 1) {
    _mm_store_ss(p, v);
  } else {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), v);
    if constexpr (kCount == 3) _mm_store_ss(p + 2, _mm_movehl_ps(v, v));
  }
}

template <int kRows, typename Elements>
__attribute__((noinline)) void prepare_tile(const float* const* rows, int64_t num_inputs,
                                            int64_t num_elements, float* out) {
  constexpr int kInputs = Elements::kInputs;
  for (int64_t begin = 0; begin < num_elements; begin += 4, out += 4 * kRows) {
    __m128 v[8];
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
      v[r] = r < kRows ? Elements::load(rows[r] + begin * kInputs, num_inputs - begin * kInputs)
                       : _mm_setzero_ps();
    }
    if constexpr (kRows == 1) {
      if (num_elements - begin >= 4) {
        _mm_storeu_ps(out, v[0]);
        continue;
      }
    }
    _MM_TRANSPOSE4_PS(v[0], v[1], v[2], v[3]);
    if constexpr (kRows > 4) _MM_TRANSPOSE4_PS(v[4], v[5], v[6], v[7]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      if (begin + i >= num_elements) break;
      store_first<(kRows < 4 ? kRows : 4)>(out + i * kRows, v[i]);
      if constexpr (kRows > 4) store_first<kRows - 4>(out + i * kRows + 4, v[4 + i]);
    }
  }
}

// k is a multiple of Elements::kInputs, and of 2 with OddFirstElements.
template <typename Elements>
void prepare_rows(const float* x, int64_t x_stride, const int32_t* x_rows, int64_t m,
                  int64_t num_inputs, int64_t k, float* out, int64_t most = kRowTile) {
  const int64_t count = k / Elements::kInputs;
  for (int64_t tile = 0; tile < num_row_tiles(m, most); ++tile) {
    const int64_t begin = row_tile_begin(tile, m, most);
    const int64_t num_rows = row_tile_begin(tile + 1, m, most) - begin;
    const float* rows[kPairRowTile];
    for (int64_t r = 0; r < num_rows; ++r) {
      rows[r] = x + (x_rows != nullptr ? x_rows[begin + r] : begin + r) * x_stride;
    }
    float* to = out + begin * count;
    switch (num_rows) {
      case 1: Elements::template tile<1>(rows, num_inputs, count, to); break;
      case 2: Elements::template tile<2>(rows, num_inputs, count, to); break;
      case 3: Elements::template tile<3>(rows, num_inputs, count, to); break;
      case 4: Elements::template tile<4>(rows, num_inputs, count, to); break;
      case 5: Elements::template tile<5>(rows, num_inputs, count, to); break;
      case 6: Elements::template tile<6>(rows, num_inputs, count, to); break;
      case 7: Elements::template tile<7>(rows, num_inputs, count, to); break;
      default: Elements::template tile<8>(rows, num_inputs, count, to); break;
    }
  }
}

// Tile after tile, the first k rows' values of up to kRowTile columns. By blocks of rows, so that a
// block's lines are read once into the first-level cache for all tiles (192 columns and 32 rows: 24
// KB).
void prepare_columns(const float* x, int64_t x_stride, int64_t m, int64_t k, float* out) {
  constexpr int64_t kBlockRows = 32;
  for (int64_t first = 0; first < k; first += kBlockRows) {
    const int64_t last = first + kBlockRows < k ? first + kBlockRows : k;
    for (int64_t tile = 0; tile < num_row_tiles(m); ++tile) {
      const int64_t begin = row_tile_begin(tile, m);
      const int64_t count = row_tile_begin(tile + 1, m) - begin;
      const float* from = x + first * x_stride + begin;
      float* to = out + begin * k + first * count;
      for (int64_t i = first; i < last; ++i, from += x_stride, to += count) {
        if (count == kRowTile) {
          __builtin_memcpy(to, from, sizeof(float) * kRowTile);
        } else {
          for (int64_t c = 0; c < count; ++c) to[c] = from[c];
        }
      }
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
