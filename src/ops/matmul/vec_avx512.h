// Sixteen float lanes, for matmul_simd.h.
#pragma once

// GCC 12 takes the undefined pass-through operand of its own unmasked intrinsics for an
// uninitialised variable.
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>

#include <cstdint>

namespace cachalot::ops {
namespace {

struct Vec {
  using F = __m512;
  using I = __m512i;
  static constexpr int kLanes = 16;
  // The register tile is 6 rows x 4 vectors: 24 accumulators, 4 of weights, 1 of x.
  static constexpr int kStripLanes = 64;
  static constexpr int kXCopies = 1;

  static F zero() { return _mm512_setzero_ps(); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static F broadcast(const float* p) { return _mm512_set1_ps(*p); }
  static F load_copies(const float* p) { return _mm512_set1_ps(*p); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F as_float(I v) { return _mm512_castsi512_ps(v); }
  static I as_int(F v) { return _mm512_castps_si512(v); }

  static I load_bytes(const void* p) { return _mm512_loadu_si512(p); }
  static I splat32(uint32_t v) { return _mm512_set1_epi32(static_cast<int>(v)); }
  static I splat16(uint16_t v) { return _mm512_set1_epi16(static_cast<int16_t>(v)); }
  static I splat8(uint8_t v) { return _mm512_set1_epi8(static_cast<char>(v)); }
  static I bit_and(I a, I b) { return _mm512_and_si512(a, b); }
  static I bit_or(I a, I b) { return _mm512_or_si512(a, b); }
  static I shift_left_32(I v, int n) { return _mm512_slli_epi32(v, static_cast<unsigned>(n)); }
  static I low_half_up(I v) { return _mm512_slli_epi32(v, 16); }
  static I shift_left_16(I v, int n) { return _mm512_slli_epi16(v, static_cast<unsigned>(n)); }
  static I shift_right_16(I v, int n) { return _mm512_srli_epi16(v, static_cast<unsigned>(n)); }
  static I shift_right_signed_16(I v, int n) {
    return _mm512_srai_epi16(v, static_cast<unsigned>(n));
  }
  static I shift_right_signed_32(I v, int n) {
    return _mm512_srai_epi32(v, static_cast<unsigned>(n));
  }
  static I all_ones_where_equal_16(I a, I b) {
    return _mm512_movm_epi16(_mm512_cmpeq_epi16_mask(a, b));
  }
  static I max_u32(I a, I b) { return _mm512_max_epu32(a, b); }
  static I table16(const uint8_t* p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static I lookup(I table, I idx) { return _mm512_shuffle_epi8(table, idx); }
  static I bit_and_memory(I v, const void* p) { return bit_and(v, load_bytes(p)); }
  static I lookup_in_memory(const uint8_t table[16], I idx) { return lookup(table16(table), idx); }
  static I unpack_low_8(I a, I b) { return _mm512_unpacklo_epi8(a, b); }
  static I unpack_high_8(I a, I b) { return _mm512_unpackhi_epi8(a, b); }
  static I load_bytes_as_32(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
};

}  // namespace
}  // namespace cachalot::ops
