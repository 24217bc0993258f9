// e2m1 in registers, by tables that hold a scale.
#pragma once

#include <cstdint>

namespace cachalot::tile {

// Codes of e4m3 of 2^6 times the values times 2^-below, `below` up to 11: the values of magnitudes
// 0 .. 3 and 4 .. 7, a byte each.
struct E2m1Table {
  uint32_t low;
  uint32_t high;

  __device__ __forceinline__ explicit E2m1Table(uint32_t below)
      : low(0x6C686000u - below * 0x08080800u), high(0x7C787470u - below * 0x08080808u) {}
  // Of the magnitudes that the low four nibbles name, whose high bits are not set.
  __device__ __forceinline__ uint32_t of(uint32_t nibbles) const {
    uint32_t bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(nibbles));
    return bytes;
  }
};
inline constexpr float kE2m1TableInE4m3 = 0x1p-6f;  // what such a product is to be multiplied by

// A word of streamed FP4 weights (StreamedFp4::word of ops/matmul): values 0..3 and 4..7.
__device__ __forceinline__ void e2m1_to_e4m3(uint32_t word, const E2m1Table& table, uint32_t& first,
                                             uint32_t& second) {
  const uint32_t magnitudes = word & 0x77777777u;
  first = table.of(magnitudes) | (word & 0x80808080u);
  second = table.of(magnitudes >> 16) | (word << 4 & 0x80808080u);
}

}  // namespace cachalot::tile
