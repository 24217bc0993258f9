// A matrix as a checkpoint stores it in the panels of a model's weights (packed_weight.h): the same
// bytes that packing on the host leaves, but for the scales of fp8. Written for a GPU, one word a
// thread; any order of words, or all at once.
#pragma once

#include <cstring>

#include "base/host_device.h"
#include "ops/matmul/packed_weight.h"

namespace cachalot::ops {

struct PackPanels {
  WeightFormat format;
  bool is_f16;  // of format f32: two bytes a value, which are widened
  int64_t rows;
  int64_t columns;
  const std::byte* codes;   // [rows, columns], row after row
  const std::byte* scales;  // fp4: [rows, ceil(columns / 32)] e8m0
  std::byte* panels;
  int32_t* has_nan_codes;  // fp8: becomes 1 where a code is NaN

  CACHALOT_HD int64_t row_bytes() const {
    switch (format) {
      case WeightFormat::f32: return columns * (is_f16 ? 2 : 4);
      case WeightFormat::bf16: return columns * 2;
      case WeightFormat::fp8: return columns;
      case WeightFormat::fp4: return columns / 2;
    }
    return 0;
  }
  CACHALOT_HD int64_t num_words() const {
    const int64_t last = (rows + 63) / 64 - 1;
    return last * panel_words(64) + panel_words(width_of(last));
  }
  CACHALOT_HD void write(int64_t word) const {
    const int64_t panel = word / panel_words(64);
    const auto in_panel = static_cast<uint32_t>(word - panel * panel_words(64));
    const uint32_t width = width_of(panel);
    const uint32_t value = format == WeightFormat::fp4
                               ? fp4_word(panel * 64, width, in_panel)
                               : lane_word(panel * 64 + in_panel % width, in_panel / width);
    std::memcpy(panels + word * 4, &value, 4);
  }

 private:
  // Of a lane.
  CACHALOT_HD int64_t words_per_lane() const {
    switch (format) {
      case WeightFormat::f32: return columns;
      case WeightFormat::bf16: return (columns + 1) / 2;
      case WeightFormat::fp8: return (columns + 3) / 4;
      case WeightFormat::fp4: return 0;  // 17 bytes for 32 inputs
    }
    return 0;
  }
  CACHALOT_HD int64_t panel_words(int64_t width) const {
    return format == WeightFormat::fp4 ? num_blocks() * width * 17 / 4 : words_per_lane() * width;
  }
  CACHALOT_HD int64_t num_blocks() const { return (columns + 31) / 32; }
  CACHALOT_HD uint32_t width_of(int64_t panel) const {
    const int64_t left = rows - panel * 64;
    return left >= 64 ? 64 : static_cast<uint32_t>((left + 15) / 16 * 16);
  }
  // Four bytes of a row from `at` on; what lies past its end is zero.
  CACHALOT_HD uint32_t bytes_of(int64_t row, int64_t at) const {
    uint32_t value = 0;
    for (int64_t i = 0; row < rows && i < 4 && at + i < row_bytes(); ++i)
      value |= static_cast<uint32_t>(codes[row * row_bytes() + at + i]) << (8 * i);
    return value;
  }
  CACHALOT_HD uint32_t lane_word(int64_t row, int64_t i) const {
    if (format == WeightFormat::f32 && is_f16) return widened(bytes_of(row, i * 2) & 0xFFFF);
    const uint32_t value = bytes_of(row, i * 4);
    for (int byte = 0; format == WeightFormat::fp8 && byte < 4; ++byte) {
      if ((value >> (8 * byte) & 0x7F) == 0x7F) *has_nan_codes = 1;
    }
    return value;
  }
  // The bits of an f16 as those of a float, exact.
  static CACHALOT_HD uint32_t widened(uint32_t half) {
    const uint32_t sign = (half & 0x8000) << 16, exponent = half >> 10 & 31;
    uint32_t mantissa = half & 0x3FF;
    if (exponent == 31) return sign | 0x7F800000 | (mantissa != 0 ? 0x400000 : 0);
    if (exponent > 0) return sign | (exponent + 112) << 23 | mantissa << 13;
    if (mantissa == 0) return sign;
    uint32_t shifts = 0;  // until its leading bit is the implicit one
    for (; (mantissa & 0x400) == 0; mantissa <<= 1) ++shifts;
    return sign | (113 - shifts) << 23 | (mantissa & 0x3FF) << 13;
  }
  CACHALOT_HD uint32_t fp4_code(int64_t row, int64_t input) const {
    if (row >= rows || input >= columns) return 0;
    return static_cast<uint32_t>(codes[row * (columns / 2) + input / 2]) >> (input % 2 * 4) & 15;
  }
  CACHALOT_HD uint32_t fp4_word(int64_t first_row, uint32_t width, uint32_t word) const {
    const uint32_t block_words = width * 17 / 4, block = word / block_words;
    uint32_t value = 0;
    for (uint32_t i = 0; i < 4; ++i) {
      uint32_t at = word % block_words * 4 + i;  // of the block
      uint32_t byte = 0;
      if (at < width) {
        const int64_t row = first_row + at;
        byte = row < rows ? static_cast<uint32_t>(scales[row * num_blocks() + block]) : 0;
      } else {
        at -= width;
        const uint32_t run = at / (width * 4), octet = at % (width * 4) / 32, b = at % 32;
        const int64_t row = first_row + octet * 8 + b / 16 * 4 + b % 8 / 2;
        const uint32_t input = block * 32 + run * 8 + b % 16 / 8 * 2 + b % 2;
        byte = fp4_code(row, input) | fp4_code(row, input + 4) << 4;
      }
      value |= byte << (8 * i);
    }
    return value;
  }
};

}  // namespace cachalot::ops
