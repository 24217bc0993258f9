// Eight float lanes, for matmul_simd.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace cachalot::ops {
namespace {

struct Vec {
  using F = __m256;
  using I = __m256i;
  static constexpr int kLanes = 8;
  // The register tile is 6 rows x 2 vectors: 12 accumulators, 2 of weights, 1 of x.
  static constexpr int kStripLanes = 16;
  // A fused multiply-add cannot broadcast from memory, so one-row products of quantised weights
  // read x already broadcast.
  static constexpr int kXCopies = 8;

  static F zero() { return _mm256_setzero_ps(); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static F broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static F load_copies(const float* p) { return _mm256_loadu_ps(p); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F as_float(I v) { return _mm256_castsi256_ps(v); }
  static I as_int(F v) { return _mm256_castps_si256(v); }

  static I load_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const I*>(p)); }
  static I splat32(uint32_t v) { return _mm256_set1_epi32(static_cast<int>(v)); }
  static I splat16(uint16_t v) { return _mm256_set1_epi16(static_cast<int16_t>(v)); }
  static I splat8(uint8_t v) { return _mm256_set1_epi8(static_cast<char>(v)); }
  static I bit_and(I a, I b) { return _mm256_and_si256(a, b); }
  static I bit_or(I a, I b) { return _mm256_or_si256(a, b); }
  static I shift_left_32(I v, int n) { return _mm256_slli_epi32(v, n); }
  // v << 16 in each lane, as a multiplication: decoding fills the two shuffle ports, which shifts
  // would share, while one of the multiplier's is idle (Zen 3: FP4 9 percent faster). The asm keeps
  // the compiler from making it a shift again.
  static I low_half_up(I v) {
    I factor = _mm256_set1_epi32(1 << 16);
    asm("" : "+x"(factor));
    return _mm256_mullo_epi32(v, factor);
  }
  static I shift_left_16(I v, int n) { return _mm256_slli_epi16(v, n); }
  static I shift_right_16(I v, int n) { return _mm256_srli_epi16(v, n); }
  static I shift_right_signed_16(I v, int n) { return _mm256_srai_epi16(v, n); }
  static I shift_right_signed_32(I v, int n) { return _mm256_srai_epi32(v, n); }
  static I all_ones_where_equal_16(I a, I b) { return _mm256_cmpeq_epi16(a, b); }
  static I max_u32(I a, I b) { return _mm256_max_epu32(a, b); }
  static I table16(const uint8_t* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static I lookup(I table, I idx) { return _mm256_shuffle_epi8(table, idx); }
  // With a constant in memory, aligned: the compiler would keep it in a register, and spill others.
  static I bit_and_memory(I v, const void* p) {
    I out;
    asm("vpand %2, %1, %0" : "=x"(out) : "x"(v), "m"(*static_cast<const I*>(p)));
    return out;
  }
  static I lookup_in_memory(const uint8_t table[16], I idx) {
    I out;
    asm("vbroadcasti128 %2, %0\n\tvpshufb %1, %0, %0"
        : "=&x"(out)
        : "x"(idx), "m"(*reinterpret_cast<const __m128i*>(table)));
    return out;
  }
  static I unpack_low_8(I a, I b) { return _mm256_unpacklo_epi8(a, b); }
  static I unpack_high_8(I a, I b) { return _mm256_unpackhi_epi8(a, b); }
  // One byte per lane, zero-extended.
  static I load_bytes_as_32(const uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
};

}  // namespace
}  // namespace cachalot::ops
