#include "numeric/formats.h"

#include <array>
#include <cmath>
#include <limits>

namespace cachalot::numeric {
namespace {

constexpr std::array<float, 8> kE2m1Values = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

std::array<float, 256> make_e4m3_table() {
  std::array<float, 256> table{};
  for (int code = 0; code < 256; ++code) {
    const int exponent = (code >> 3) & 15;
    const int mantissa = code & 7;
    float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
    if ((code & 0x7F) == 0x7F) value = std::numeric_limits<float>::quiet_NaN();
    table[code] = (code & 0x80) != 0 ? -value : value;
  }
  return table;
}
const std::array<float, 256> kE4m3Values = make_e4m3_table();

}  // namespace

float float_from_f16(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  float value;
  if (exponent == 31) {
    value = mantissa == 0 ? std::numeric_limits<float>::infinity()
                          : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    value = std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

uint8_t e4m3_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint8_t sign = static_cast<uint8_t>((bits >> 24) & 0x80);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return sign | 0x7F;
  if (magnitude >= std::bit_cast<uint32_t>(kE4m3Max)) return sign | 0x7E;
  if (magnitude < std::bit_cast<uint32_t>(0x1p-6f)) {
    // Subnormal range: adding 2^14 leaves steps of 2^-9, so the addition itself rounds to nearest
    // even.
    const float shifted = std::bit_cast<float>(magnitude) + 0x1p14f;
    return sign | static_cast<uint8_t>(std::bit_cast<uint32_t>(shifted) & 0xFF);
  }
  // Keep 3 mantissa bits, round to nearest even on the bits, and rebias 127 -> 7.
  const uint32_t rounded = magnitude + 0x7FFFF + ((magnitude >> 20) & 1);
  return sign | static_cast<uint8_t>((rounded >> 20) - ((127 - 7) << 3));
}

float float_from_e4m3(uint8_t code) { return kE4m3Values[code]; }

uint8_t e2m1_from_float(float value) {
  const uint8_t sign = std::signbit(value) ? 8 : 0;
  const float magnitude = std::fabs(value);
  // Ties at 0.25, 0.75, 1.25, 1.75, 2.5, 3.5 and 5 go to the even code.
  if (magnitude <= 0.25f) return sign;
  if (magnitude < 0.75f) return sign | 1;
  if (magnitude <= 1.25f) return sign | 2;
  if (magnitude < 1.75f) return sign | 3;
  if (magnitude <= 2.5f) return sign | 4;
  if (magnitude < 3.5f) return sign | 5;
  if (magnitude <= 5.0f) return sign | 6;
  return sign | 7;
}

float float_from_e2m1(uint8_t code) {
  const float value = kE2m1Values[code & 7];
  return (code & 8) != 0 ? -value : value;
}

float float_from_e8m0(uint8_t byte) {
  if (byte == 255) return std::numeric_limits<float>::quiet_NaN();
  if (byte == 0) return 0x1p-127f;
  return std::bit_cast<float>(static_cast<uint32_t>(byte) << 23);
}

}  // namespace cachalot::numeric
