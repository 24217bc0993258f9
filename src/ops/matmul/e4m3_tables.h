// Byte tables for vpermi2b: bf16 of an e4m3 magnitude code, and the interleaving of decoded bytes.
// Filled by the compiler.
#pragma once

#include <cstdint>

namespace cachalot::ops {
namespace {

struct E4m3Tables {
  alignas(64) uint8_t low[128];  // of bf16(code), by code without its sign
  alignas(64) uint8_t high[128];
  // Bytes of the lanes' inputs 0 and 1 (2 and 3): low bytes in table 0, high bytes in table 1
  // (index + 64).
  alignas(64) uint8_t first_pair[64];
  alignas(64) uint8_t second_pair[64];
};

// bf16 exponents are e4m3's plus 120; a subnormal m * 2^-9 has its leading bit moved up to the
// implicit one.
constexpr uint16_t bf16_of_e4m3(int code) {
  const int exponent = code >> 3;
  const int mantissa = code & 7;
  if (code == 0x7F) return 0x7FC0;
  if (exponent > 0) return static_cast<uint16_t>((exponent + 120) << 7 | mantissa << 4);
  if (mantissa == 0) return 0;
  const int top = mantissa >= 4 ? 2 : mantissa >= 2 ? 1 : 0;
  return static_cast<uint16_t>((top - 9 + 127) << 7 | (mantissa - (1 << top)) << (7 - top));
}

constexpr E4m3Tables make_e4m3_tables() {
  E4m3Tables t{};
  for (int code = 0; code < 128; ++code) {
    t.low[code] = static_cast<uint8_t>(bf16_of_e4m3(code) & 0xFF);
    t.high[code] = static_cast<uint8_t>(bf16_of_e4m3(code) >> 8);
  }
  for (int lane = 0; lane < 16; ++lane) {
    for (int i = 0; i < 2; ++i) {
      t.first_pair[lane * 4 + 2 * i] = static_cast<uint8_t>(lane * 4 + i);
      t.first_pair[lane * 4 + 2 * i + 1] = static_cast<uint8_t>(64 + lane * 4 + i);
      t.second_pair[lane * 4 + 2 * i] = static_cast<uint8_t>(lane * 4 + 2 + i);
      t.second_pair[lane * 4 + 2 * i + 1] = static_cast<uint8_t>(64 + lane * 4 + 2 + i);
    }
  }
  return t;
}

constexpr E4m3Tables kE4m3Tables = make_e4m3_tables();

}  // namespace
}  // namespace cachalot::ops
