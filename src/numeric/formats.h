// Number formats of the checkpoints, encode and decode, one value at a time. These are the
// definitions: SIMD and device versions reproduce them bit for bit.
// Source  reference/forward 0.3.
// Rounding is to nearest, ties to even, for every format; e4m3 and e2m1 saturate, and keep
// subnormals.
#pragma once

#include <bit>
#include <cstdint>

namespace cachalot::numeric {

// bf16: 1-8-7. NaN stays NaN (quiet).
inline uint16_t bf16_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}
inline float float_from_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
inline float round_to_bf16(float value) { return float_from_bf16(bf16_from_float(value)); }

// fp16: 1-5-10, decode only (some checkpoints carry it).
float float_from_f16(uint16_t bits);

// e4m3 "fn": 1-4-3, bias 7, no infinity, 0x7F and 0xFF are NaN, largest finite 448, step 2^-9 below
// 2^-6.
inline constexpr float kE4m3Max = 448.0f;
uint8_t e4m3_from_float(float value);  // saturates to +-448; NaN gives 0x7F with the sign
float float_from_e4m3(uint8_t code);

// e2m1 (FP4): codes 0..7 are 0, 0.5, 1, 1.5, 2, 3, 4, 6; bit 3 is the sign, code 8 is -0.
inline constexpr float kE2m1Max = 6.0f;
uint8_t e2m1_from_float(float value);  // saturates to +-6; NaN gives code 7 with the sign
float float_from_e2m1(uint8_t code);   // reads the low four bits

// e8m0: value 2^(byte - 127); 255 is NaN; byte 0 is 2^-127, a subnormal float.
float float_from_e8m0(uint8_t byte);

// For a positive normal float u: the integer e with 2^(e-1) < u <= 2^e, taken from the bits
// (reference/forward 0.4, POW2CEIL).
inline int pow2_ceil_exponent(float u) {
  const uint32_t bits = std::bit_cast<uint32_t>(u);
  return static_cast<int>((bits >> 23) & 0xFF) - 127 + ((bits & 0x7FFFFF) != 0 ? 1 : 0);
}

// 2^exponent as a float, for exponents of normal floats (-126..127).
inline float pow2(int exponent) {
  return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23);
}

}  // namespace cachalot::numeric
