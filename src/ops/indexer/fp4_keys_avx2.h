// Fp4 keys straight into the panel of floats that the products read, eight keys at a time: their
// bytes are transposed four by four, so that a lane is a key; then a table finds each magnitude by
// three bits, and the fourth is the sign. Included by *_avx2.cpp files only.
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

// panel: of the first key's lane, rows of kIndexRunKeys floats.
inline bool pack_fp4_lanes(const std::byte* codes, const std::byte* scales, int64_t dim,
                           float* panel) {
  const __m256 magnitudes = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
  const __m256i sign = _mm256_set1_epi32(static_cast<int>(0x80000000));
  const int64_t groups = dim / 32;
  for (int64_t group = 0; group < groups; ++group) {
    const __m256i bytes = load_scales(scales + group, groups);
    if (_mm256_movemask_epi8(_mm256_cmpeq_epi32(bytes, _mm256_set1_epi32(0xFF))) != 0) return false;
    const __m256 scale = _mm256_castsi256_ps(
        _mm256_max_epu32(_mm256_slli_epi32(bytes, 23), _mm256_set1_epi32(0x00400000)));
    __m256i parts[4];
    transposed_codes(codes + 16 * group, dim / 2, parts);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 8
      for (int n = 0; n < 8; ++n, panel += kIndexRunKeys) {
        const __m256i code = _mm256_srli_epi32(parts[i], 4 * n);
        const __m256i negative = _mm256_and_si256(_mm256_slli_epi32(parts[i], 28 - 4 * n), sign);
        const __m256 value =
            _mm256_or_ps(_mm256_permutevar8x32_ps(magnitudes, code), _mm256_castsi256_ps(negative));
        _mm256_storeu_ps(panel, _mm256_mul_ps(value, scale));
      }
    }
  }
  return true;
}

// Panel [run][dim][16 keys].
bool pack_fp4_floats(const Fp4Run runs[4], int64_t dim, float* panel) {
  for (int64_t lane = 0; lane < kIndexTileKeys; lane += kFp4Lanes) {
    const Fp4Run& run = runs[lane / kIndexRunKeys];
    const int64_t key = lane % kIndexRunKeys;
    if (!pack_fp4_lanes(run.codes + key * (dim / 2), run.scales + key * (dim / 32), dim,
                        panel + lane / kIndexRunKeys * kIndexRunKeys * dim + key))
      return false;
  }
  return true;
}

}  // namespace
}  // namespace cachalot::ops
