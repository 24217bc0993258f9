// Number formats in registers, several values at a time. Every conversion is exact or rounds to
// nearest even as numeric/formats.h defines it, unless its name says approximate.
#pragma once

#include <cstdint>

namespace cachalot::tile {

__device__ __forceinline__ float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }

// --- bf16, two in a word, the first in the low half.

__device__ __forceinline__ float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(uint32_t pair) {
  return __uint_as_float(pair & 0xFFFF0000u);
}
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
// Of max(x, 0); NaN stays.
__device__ __forceinline__ uint32_t pack_positive_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ uint32_t multiply_bf16(uint32_t a, uint32_t b) {
  uint32_t product;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
  return product;
}
__device__ __forceinline__ uint32_t add_bf16(uint32_t a, uint32_t b) {
  uint32_t sum;
  asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
  return sum;
}
__device__ __forceinline__ uint32_t subtract_bf16(uint32_t a, uint32_t b) {
  uint32_t difference;
  asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(difference) : "r"(a), "r"(b));
  return difference;
}
// Of two that are not NaN the larger; of one that is, the other.
__device__ __forceinline__ uint32_t max_bf16(uint32_t a, uint32_t b) {
  uint32_t larger;
  asm("max.bf16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
  return larger;
}
__device__ __forceinline__ uint32_t magnitude_bf16(uint32_t pair) { return pair & 0x7FFF7FFFu; }
__device__ __forceinline__ uint16_t bf16_bits(float x) {
  return static_cast<uint16_t>(pack_bf16(x, 0.0f) & 0xFFFF);
}
__device__ __forceinline__ float round_to_bf16(float x) { return low_bf16(pack_bf16(x, 0.0f)); }

// --- e4m3.

// Four to their codes, the first in the low byte; saturates.
__device__ __forceinline__ uint32_t pack_e4m3(float x0, float x1, float x2, float x3) {
  uint16_t low, high;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(x1), "f"(x0));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(x3), "f"(x2));
  return low | static_cast<uint32_t>(high) << 16;
}
// Four codes to two pairs of f16.
__device__ __forceinline__ void e4m3_to_f16(uint32_t codes, uint32_t& first, uint32_t& second) {
  asm("{\n"
      ".reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, low;\n"
      "cvt.rn.f16x2.e4m3x2 %1, high;\n"
      "}"
      : "=r"(first), "=r"(second)
      : "r"(codes));
}
__device__ __forceinline__ float float_from_f16(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
// Four codes to two pairs of bf16, in order: 2^-120 times the values, which one exact product
// mends. Not for NaN.
inline constexpr uint32_t kTwoTo120 = 0x7B807B80;  // its factor, twice
__device__ __forceinline__ void e4m3_to_bf16(uint32_t codes, uint32_t& first, uint32_t& second) {
  constexpr uint32_t kSign = 0x80008000u, kRest = 0x07F007F0u;
  const uint32_t swapped = __byte_perm(codes, 0, 0x3120);
  first = ((swapped << 8) & kSign) | ((swapped << 4) & kRest);
  second = (swapped & kSign) | ((swapped >> 4) & kRest);
}
// That product's factor, twice, from the e8m0 byte of a scale; one above 2^7 counts as 2^7.
__device__ __forceinline__ uint32_t e8m0_factor_of_bf16(uint32_t byte) {
  return (min(byte, 134u) + 120) * 0x00800080u;
}

// 2^exponent for exponents up to 127; below -126: 0. And twice in bf16.
__device__ __forceinline__ float pow2(int exponent) {
  return exponent < -126 ? 0.0f : __int_as_float((exponent + 127) << 23);
}
__device__ __forceinline__ uint32_t pow2_bf16(int exponent) {
  return exponent < -126 ? 0u : static_cast<uint32_t>(exponent + 127) * 0x00800080u;
}

// --- e2m1, in the order of the streamed FP4 weights: byte i of a word holds values i (high nibble)
// and 4 + i (low nibble).

// Codes of e4m3 of 2^-6 times the values: 0..3 and 4..7.
__device__ __forceinline__ void e2m1_to_e4m3(uint32_t word, uint32_t& first, uint32_t& second) {
  first = (word & 0x80808080u) | ((word >> 2) & 0x1C1C1C1Cu);
  second = ((word << 4) & 0x80808080u) | ((word << 2) & 0x1C1C1C1Cu);
}
inline constexpr float kE2m1InE4m3 = 64.0f;  // what such a product is to be multiplied by

// Codes of e4m3 of 2^6 times the values times 2^-below, exact for `below` up to 11; beyond it 0.
// The values lie in the order of index keys: value i in bits 4 i.
class E2m1Codes {
 public:
  __device__ __forceinline__ explicit E2m1Codes(uint32_t below)
      : low_(below > 11 ? 0u : 0x6C686000u - below * 0x08080800u),
        high_(below > 11 ? 0u : 0x7C787470u - below * 0x08080808u) {}
  // Of the values 0 .. 3.
  __device__ __forceinline__ uint32_t of_low(uint32_t word) const {
    return permute_bytes(low_, high_, word & 0x7777u) | signs(word);
  }

 private:
  static __device__ __forceinline__ uint32_t permute_bytes(uint32_t a, uint32_t b,
                                                           uint32_t selectors) {
    uint32_t bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(a), "r"(b), "r"(selectors));
    return bytes;
  }
  // A selector with its high bit set spreads the sign of the byte that it names: 0xFF, else 0x80.
  static __device__ __forceinline__ uint32_t signs(uint32_t word) {
    return (permute_bytes(0x80808080u, 0x80808080u, word) << 1) & 0x80808080u;
  }

  uint32_t low_;   // of 0, 0.5, 1, 1.5
  uint32_t high_;  // of 2, 3, 4, 6
};

// The code of one value, to nearest even, saturating; of NaN that of 6 with its sign.
__device__ __forceinline__ uint32_t e2m1_from_float(float x) {
  const float a = fabsf(x);
  const uint32_t code = !(a <= 5.0f) ? 7
                        : a >= 3.5f  ? 6
                        : a > 2.5f   ? 5
                        : a >= 1.75f ? 4
                        : a > 1.25f  ? 3
                        : a >= 0.75f ? 2
                        : a > 0.25f  ? 1
                                     : 0;
  return code | __float_as_uint(x) >> 31 << 3;
}

// Pairs of f16 of 2^-14 times the values: (1, 3), (0, 2), (5, 7), (4, 6).
__device__ __forceinline__ void e2m1_to_f16(uint32_t word, uint32_t (&pairs)[4]) {
  pairs[0] = (word & 0x80008000u) | ((word >> 3) & 0x0E000E00u);
  pairs[1] = ((word << 8) & 0x80008000u) | ((word << 5) & 0x0E000E00u);
  pairs[2] = ((word << 4) & 0x80008000u) | ((word << 1) & 0x0E000E00u);
  pairs[3] = ((word << 12) & 0x80008000u) | ((word << 9) & 0x0E000E00u);
}
inline constexpr float kE2m1InF16 = 16384.0f;

// --- Scales.

// 2^(byte - 127) for bytes 1..254; byte 0, a subnormal there, gives 0 here.
__device__ __forceinline__ float e8m0_to_float(uint32_t byte) {
  return __uint_as_float(byte << 23);
}
// A power of two of a normal float and its reciprocal.
struct Pow2Scale {
  float scale;
  float inverse;
};
// The smallest power of two that is at least x, for normal x >= 2^-126 up to 2^127.
__device__ __forceinline__ Pow2Scale pow2_ceil(float x) {
  const uint32_t bits = min((__float_as_uint(x) + 0x7FFFFFu) & 0x7F800000u, 0x7F000000u);
  return {__uint_as_float(bits), __uint_as_float(0x7F000000u - bits)};
}

// --- The chip's own functions, exact to some 2^-22; their bits are the chip's.

__device__ __forceinline__ float approximate_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float approximate_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace cachalot::tile
