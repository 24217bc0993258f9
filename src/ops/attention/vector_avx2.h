// What the attention and indexer kernels need of a vector of floats, 8 lanes. Included by
// *_avx2.cpp files only; internal linkage, since each instruction set compiles the same kernel
// text.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "ops/elementwise/exp_avx2.h"

namespace cachalot::ops {
namespace {

struct Vec {
  using Reg = __m256;
  static constexpr int kLanes = 8;
  // 6 rows x 2: 12 chains cover the latency of two fma units, 15 of 16 registers
  static constexpr int kTileRegs = 2;

  static Reg zero() { return _mm256_setzero_ps(); }
  static Reg set1(float x) { return _mm256_set1_ps(x); }
  static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Reg x) { _mm256_storeu_ps(p, x); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }  // a > b ? a : b
  static Reg exp(Reg x) { return exp_f32x8(x); }
  // Nearest even; NaN stays NaN.
  static Reg round_bf16(Reg x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256i rounded = _mm256_and_si256(up, _mm256_set1_epi32(~0xFFFF));
    return _mm256_blendv_ps(_mm256_castsi256_ps(rounded), x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  }
  // x where d > 0, else 0.
  static Reg where_positive(Reg d, Reg x) {
    return _mm256_and_ps(x, _mm256_cmp_ps(d, _mm256_setzero_ps(), _CMP_GT_OQ));
  }
  // Bit i: lane i is greater. False for NaN.
  static uint32_t greater(Reg a, Reg b) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
  }
};

}  // namespace
}  // namespace cachalot::ops
