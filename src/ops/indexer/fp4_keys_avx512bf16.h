// Fp4 keys straight into the panel of bf16 pairs that the products read. A byte of codes is a pair:
// sixteen keys' bytes are transposed four at a time, one shift puts both nibbles of every key's
// byte where a table of words finds their bf16, and the scale, a power of two, is added to the
// exponents of what is not zero. Included by *_avx512bf16.cpp files only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "ops/indexer/index_kernels.h"

namespace cachalot::ops {
namespace {

// bf16 of the e2m1 codes, twice: the table's lookup takes five bits, of which a code has four.
alignas(64) constexpr uint16_t kFp4Words[32] = {
    0x0000, 0x3F00, 0x3F80, 0x3FC0, 0x4000, 0x4040, 0x4080, 0x40C0, 0x8000, 0xBF00, 0xBF80,
    0xBFC0, 0xC000, 0xC040, 0xC080, 0xC0C0, 0x0000, 0x3F00, 0x3F80, 0x3FC0, 0x4000, 0x4040,
    0x4080, 0x40C0, 0x8000, 0xBF00, 0xBF80, 0xBFC0, 0xC000, 0xC040, 0xC080, 0xC0C0};

// Of these scale bytes no value but zero leaves bf16's normal range: 0.5 * 2^-125, 6 * 2^125.
constexpr int kLeastScale = 2, kMostScale = 252;

// 16 keys' bytes [4 * i, 4 * i + 4) of a group of 32 values in vector i: lane = key.
inline void transposed_codes(const std::byte* codes, int64_t key_bytes, __m512i out[4]) {
  const auto part = [&](int key) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + key * key_bytes));
  };
  __m512i keys[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    keys[i] = _mm512_castsi128_si512(part(i));
    keys[i] = _mm512_inserti32x4(keys[i], part(4 + i), 1);
    keys[i] = _mm512_inserti32x4(keys[i], part(8 + i), 2);
    keys[i] = _mm512_inserti32x4(keys[i], part(12 + i), 3);
  }
  const __m512i a = _mm512_unpacklo_epi32(keys[0], keys[1]);
  const __m512i b = _mm512_unpackhi_epi32(keys[0], keys[1]);
  const __m512i c = _mm512_unpacklo_epi32(keys[2], keys[3]);
  const __m512i d = _mm512_unpackhi_epi32(keys[2], keys[3]);
  out[0] = _mm512_unpacklo_epi64(a, c);
  out[1] = _mm512_unpackhi_epi64(a, c);
  out[2] = _mm512_unpacklo_epi64(b, d);
  out[3] = _mm512_unpackhi_epi64(b, d);
}

// Scale bytes of 16 keys, kGroups a key, as one number a key.
template <int kGroups>
inline __m512i load_scales(const std::byte* scales) {
  if constexpr (kGroups == 1) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
  } else if constexpr (kGroups == 2) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
  } else {
    return _mm512_loadu_si512(scales);
  }
}

template <int kGroups>
inline bool pack_fp4_run(const Fp4Run& run, float* panel) {
  constexpr int64_t kKeyBytes = 16 * kGroups;
  const __m512i table = _mm512_load_si512(kFp4Words);
  const __m512i scales = load_scales<kGroups>(run.scales);
  for (int group = 0; group < kGroups; ++group) {
    const __m512i scale = _mm512_and_si512(
        _mm512_srli_epi32(scales, static_cast<unsigned>(8 * group)), _mm512_set1_epi32(0xFF));
    const __m512i place = _mm512_sub_epi32(scale, _mm512_set1_epi32(kLeastScale));
    if (_mm512_cmpgt_epu32_mask(place, _mm512_set1_epi32(kMostScale - kLeastScale)) != 0)
      return false;
    // Added to both words of a pair.
    const __m512i exponent = _mm512_slli_epi32(_mm512_sub_epi32(scale, _mm512_set1_epi32(127)), 7);
    const __m512i add = _mm512_or_si512(_mm512_and_si512(exponent, _mm512_set1_epi32(0xFFFF)),
                                        _mm512_slli_epi32(exponent, 16));
    __m512i codes[4];
    transposed_codes(run.codes + 16 * group, kKeyBytes, codes);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
      for (int byte = 0; byte < 4; ++byte, panel += kIndexTileKeys) {
        // Of both keys in a quarter: bits from 8 * byte on to the low word, four further on to the
        // high one.
        const int64_t low = 8 * byte, high = 8 * byte + 4;
        const __m512i places =
            _mm512_set1_epi64(low | high << 16 | (low + 32) << 32 | (high + 32) << 48);
        const __m512i nibbles = _mm512_multishift_epi64_epi8(places, codes[i]);
        const __m512i words = _mm512_permutexvar_epi16(nibbles, table);
        const __mmask32 nonzero = _mm512_test_epi16_mask(nibbles, _mm512_set1_epi16(7));
        _mm512_storeu_si512(panel, _mm512_mask_add_epi16(words, nonzero, words, add));
      }
    }
  }
  return true;
}

template <int kGroups>
[[gnu::noinline]] bool pack_fp4_tile(const Fp4Run runs[4], float* panel) {
  bool exact = true;
  for (int i = 0; i < 4 && exact; ++i)
    exact = pack_fp4_run<kGroups>(runs[i], panel + i * kIndexRunKeys);
  return exact;
}

// Panel [pair][64 keys].
bool pack_fp4_pairs(const Fp4Run runs[4], int64_t dim, float* panel) {
  switch (dim) {
    case 32: return pack_fp4_tile<1>(runs, panel);
    case 64: return pack_fp4_tile<2>(runs, panel);
    default: return pack_fp4_tile<4>(runs, panel);
  }
}

}  // namespace
}  // namespace cachalot::ops
