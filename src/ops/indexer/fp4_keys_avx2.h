// Fp4 keys straight into the panel of floats that the products read, eight keys at a time: their
// bytes are transposed four by four, so that a lane is a key; then a table makes each code twice
// its value, a byte that is moved to the top of a lane and converted. Zeros become positive.
// Included by *_avx2.cpp files only, after index_kernels_body.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "ops/indexer/index_kernels.h"

namespace cachalot::ops {
namespace {

constexpr int64_t kFp4Lanes = 8;

// Eight keys' bytes [4 * i, 4 * i + 4) of a group of 32 values in vector i: lane = key.
inline void transposed_codes(const std::byte* codes, int64_t key_bytes, __m256i out[4]) {
  const auto part = [&](int key) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + key * key_bytes));
  };
  __m256i keys[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    keys[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(part(i)), part(4 + i), 1);
  const __m256i a = _mm256_unpacklo_epi32(keys[0], keys[1]);
  const __m256i b = _mm256_unpackhi_epi32(keys[0], keys[1]);
  const __m256i c = _mm256_unpacklo_epi32(keys[2], keys[3]);
  const __m256i d = _mm256_unpackhi_epi32(keys[2], keys[3]);
  out[0] = _mm256_unpacklo_epi64(a, c);
  out[1] = _mm256_unpackhi_epi64(a, c);
  out[2] = _mm256_unpacklo_epi64(b, d);
  out[3] = _mm256_unpackhi_epi64(b, d);
}

// One scale byte of each of eight keys, `groups` a key.
inline __m256i load_scales(const std::byte* scales, int64_t groups) {
  alignas(8) uint8_t bytes[kFp4Lanes];
  for (int64_t key = 0; key < kFp4Lanes; ++key)
    bytes[key] = static_cast<uint8_t>(scales[key * groups]);
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
}

// panel: of the first key's lane, rows of kPanelLanes floats.
inline bool pack_fp4_lanes(const std::byte* codes, const std::byte* scales, int64_t dim,
                           float* panel) {
  // Twice a code's value, a byte a code.
  const __m256i doubled = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i top = _mm256_set1_epi32(static_cast<int>(0xFF000000));
  const int64_t groups = dim / 32;
  for (int64_t group = 0; group < groups; ++group) {
    // 2^-25 of the scale, as values are converted with 2^25 of theirs; normal from 2^-101 on.
    const __m256i shifted =
        _mm256_sub_epi32(load_scales(scales + group, groups), _mm256_set1_epi32(25));
    const __m256i limited = _mm256_min_epu32(_mm256_max_epi32(shifted, _mm256_set1_epi32(1)),
                                             _mm256_set1_epi32(254 - 25));
    if (_mm256_movemask_epi8(_mm256_cmpeq_epi32(shifted, limited)) != -1) return false;
    const __m256 scale = _mm256_castsi256_ps(_mm256_slli_epi32(limited, 23));
    __m256i parts[4];
    transposed_codes(codes + 16 * group, dim / 2, parts);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m256i halves[2] = {parts[i], _mm256_srli_epi16(parts[i], 4)};
      __m256i values[2];
      for (int n = 0; n < 2; ++n)
        values[n] = _mm256_shuffle_epi8(doubled, _mm256_and_si256(halves[n], nibble));
#pragma GCC unroll 8
      for (int n = 0; n < 8; ++n, panel += kPanelLanes) {
        const __m256i lowest =
            _mm256_and_si256(_mm256_slli_epi32(values[n % 2], 24 - 8 * (n / 2)), top);
        _mm256_storeu_ps(panel, _mm256_mul_ps(_mm256_cvtepi32_ps(lowest), scale));
      }
    }
  }
  return true;
}

bool pack_fp4_floats(const Fp4Run runs[4], int64_t dim, float* panel) {
  for (int64_t lane = 0; lane < kIndexTileKeys; lane += kFp4Lanes) {
    const Fp4Run& run = runs[lane / kIndexRunKeys];
    const int64_t key = lane % kIndexRunKeys;
    if (!pack_fp4_lanes(run.codes + key * (dim / 2), run.scales + key * (dim / 32), dim,
                        panel + lane / kPanelLanes * kPanelLanes * dim + lane % kPanelLanes))
      return false;
  }
  return true;
}

}  // namespace
}  // namespace cachalot::ops
