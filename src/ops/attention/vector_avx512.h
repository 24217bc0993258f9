// What the attention and indexer kernels need of a vector of floats, 16 lanes. Included by
// *_avx512.cpp and *_avx512bf16.cpp files only; internal linkage, since each instruction set
// compiles the same kernel text.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "ops/elementwise/exp_avx512.h"

namespace cachalot::ops {
namespace {

struct Vec {
  using Reg = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kTileRegs = 4;  // 6 rows x 4: 24 chains and 4 panel registers of 32

  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg set1(float x) { return _mm512_set1_ps(x); }
  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Reg x) { _mm512_storeu_ps(p, x); }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }  // a > b ? a : b
  static Reg exp(Reg x) { return exp_f32x16(x); }
  // Nearest even; NaN stays NaN.
  static Reg round_bf16(Reg x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __m512i rounded = _mm512_and_si512(up, _mm512_set1_epi32(~0xFFFF));
    return _mm512_mask_mov_ps(_mm512_castsi512_ps(rounded), _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q),
                              x);
  }
  // x where d > 0, else 0.
  static Reg where_positive(Reg d, Reg x) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(d, _mm512_setzero_ps(), _CMP_GT_OQ), x);
  }
  // Bit i: lane i is greater. False for NaN.
  static uint32_t greater(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
};

}  // namespace
}  // namespace cachalot::ops
