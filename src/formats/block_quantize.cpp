#include "formats/block_quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "numeric/formats.h"

namespace cachalot::formats {
namespace {

constexpr int kScaleBias = 127;

struct Fp8 {
  static constexpr float kFloor = 1e-4f;
  static constexpr float kInverseMax = 1.0f / numeric::kE4m3Max;
  static uint8_t encode(float value) { return numeric::e4m3_from_float(value); }
  static float decode(uint8_t code) { return numeric::float_from_e4m3(code); }
};
struct Fp4 {
  static constexpr float kFloor = 6.0f * 0x1p-126f;
  static constexpr float kInverseMax = 1.0f / numeric::kE2m1Max;
  static uint8_t encode(float value) { return numeric::e2m1_from_float(value); }
  static float decode(uint8_t code) { return numeric::float_from_e2m1(code); }
};

// A block of a row-major matrix.
struct Block {
  const float* values;
  int64_t stride;
  int64_t rows;
  int64_t columns;
};

template <typename Fn>
void each(const Block& block, Fn fn) {
  for (int64_t r = 0; r < block.rows; ++r) {
    for (int64_t c = 0; c < block.columns; ++c) fn(r, c, block.values[r * block.stride + c]);
  }
}

template <typename Format>
bool is_exact(const Block& block, uint8_t scale_byte) {
  const float scale = numeric::float_from_e8m0(scale_byte);
  for (int64_t r = 0; r < block.rows; ++r) {
    for (int64_t c = 0; c < block.columns; ++c) {
      const float value = block.values[r * block.stride + c];
      if (Format::decode(Format::encode(value / scale)) * scale != value) return false;
    }
  }
  return true;
}

template <typename Format>
uint8_t canonical_scale(const Block& block) {
  float largest = Format::kFloor;
  each(block,
       [&](int64_t, int64_t, float value) { largest = std::max(largest, std::fabs(value)); });
  return static_cast<uint8_t>(numeric::pow2_ceil_exponent(largest * Format::kInverseMax) +
                              kScaleBias);
}

// The block's scale; `preferred` is 255 (NaN, no scale) where there is none.
template <typename Format>
uint8_t choose_scale(const Block& block, uint8_t preferred, QuantizeCounts* counts) {
  ++counts->blocks;
  if (preferred != 255 && is_exact<Format>(block, preferred)) {
    ++counts->preferred_blocks;
    return preferred;
  }
  const uint8_t scale = canonical_scale<Format>(block);
  if (!is_exact<Format>(block, scale)) ++counts->inexact_blocks;
  return scale;
}

Status check_finite(std::span<const float> values, int64_t columns) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    const auto at = static_cast<int64_t>(i);
    return invalid_argument(fmt::format("expected finite values, found {} at row {}, column {}",
                                        values[i], at / columns, at % columns));
  }
  return {};
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Status quantize_fp8_blocks(std::span<const float> values, int64_t rows, int64_t columns,
                           int64_t block_rows, int64_t block_columns,
                           std::span<const uint8_t> preferred, std::span<uint8_t> codes,
                           std::span<uint8_t> scales, QuantizeCounts* counts) {
  const int64_t scale_rows = ceil_div(rows, block_rows),
                scale_columns = ceil_div(columns, block_columns);
  CACHALOT_CHECK(static_cast<int64_t>(values.size()) == rows * columns &&
                 codes.size() == values.size());
  CACHALOT_CHECK(static_cast<int64_t>(scales.size()) == scale_rows * scale_columns);
  CACHALOT_CHECK(preferred.empty() || preferred.size() == scales.size());
  CACHALOT_RETURN_IF_ERROR(check_finite(values, columns));
  for (int64_t i = 0; i < scale_rows; ++i) {
    for (int64_t j = 0; j < scale_columns; ++j) {
      const int64_t first = i * block_rows * columns + j * block_columns;
      const Block block{values.data() + first, columns, std::min(block_rows, rows - i * block_rows),
                        std::min(block_columns, columns - j * block_columns)};
      const int64_t at = i * scale_columns + j;
      scales[at] = choose_scale<Fp8>(block, preferred.empty() ? 255 : preferred[at], counts);
      const float scale = numeric::float_from_e8m0(scales[at]);
      each(block, [&](int64_t r, int64_t c, float value) {
        codes[first + r * columns + c] = Fp8::encode(value / scale);
      });
    }
  }
  return {};
}

Status quantize_fp4_groups(std::span<const float> values, int64_t rows, int64_t columns,
                           std::span<const uint8_t> preferred, std::span<uint8_t> codes,
                           std::span<uint8_t> scales, QuantizeCounts* counts) {
  constexpr int64_t kGroup = 32;
  CACHALOT_CHECK(columns % kGroup == 0 && static_cast<int64_t>(values.size()) == rows * columns);
  CACHALOT_CHECK(codes.size() * 2 == values.size() &&
                 static_cast<int64_t>(scales.size()) == rows * columns / kGroup);
  CACHALOT_CHECK(preferred.empty() || preferred.size() == scales.size());
  CACHALOT_RETURN_IF_ERROR(check_finite(values, columns));
  for (size_t group = 0; group < scales.size(); ++group) {
    const float* first = values.data() + group * kGroup;
    scales[group] = choose_scale<Fp4>({first, kGroup, 1, kGroup},
                                      preferred.empty() ? 255 : preferred[group], counts);
    const float scale = numeric::float_from_e8m0(scales[group]);
    for (int64_t i = 0; i < kGroup; i += 2) {
      const int low = Fp4::encode(first[i] / scale), high = Fp4::encode(first[i + 1] / scale);
      codes[group * kGroup / 2 + static_cast<size_t>(i / 2)] =
          static_cast<uint8_t>(low | high << 4);
    }
  }
  return {};
}

namespace {

constexpr int64_t kFp4Group = 32;
constexpr int64_t kFp8Block = 128;
// 6 * 2^6 = 384, the largest multiple of the largest FP4 code that E4M3 holds
constexpr int kHeadroom = 6;

struct Fp4Matrix {
  std::span<const uint8_t> codes;
  std::span<const uint8_t> scales;
  int64_t columns;

  uint8_t scale(int64_t row, int64_t group) const {
    return scales[row * (columns / kFp4Group) + group];
  }
  std::span<const uint8_t> group(int64_t row, int64_t group) const {
    return codes.subspan((row * columns + group * kFp4Group) / 2, kFp4Group / 2);
  }
  bool is_zero(int64_t row, int64_t group_idx) const {
    const auto pairs = group(row, group_idx);
    return std::all_of(pairs.begin(), pairs.end(), [](uint8_t p) { return (p & 0x77) == 0; });
  }
};

// The FP4 codes as E4M3 at 2^shift times their value.
struct RecastTable {
  int shift = 0;
  uint8_t code[16];
  bool exact[16];

  explicit RecastTable(int shift) : shift(shift) {
    for (int fp4 = 0; fp4 < 16; ++fp4) {
      const float value = std::ldexp(numeric::float_from_e2m1(static_cast<uint8_t>(fp4)), shift);
      code[fp4] = numeric::e4m3_from_float(value);
      exact[fp4] = numeric::float_from_e4m3(code[fp4]) == value;
    }
  }
  // True if all of the group's codes are exact.
  bool apply(std::span<const uint8_t> pairs, uint8_t* out) const {
    bool all_exact = true;
    for (size_t i = 0; i < pairs.size(); ++i) {
      const int low = pairs[i] & 15, high = pairs[i] >> 4;
      out[2 * i] = code[low];
      out[2 * i + 1] = code[high];
      all_exact &= exact[low] & exact[high];
    }
    return all_exact;
  }
};

}  // namespace

int64_t encode_bf16(std::span<const float> values, std::span<std::byte> out) {
  CACHALOT_CHECK(out.size() == 2 * values.size());
  int64_t rounded = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = numeric::bf16_from_float(values[i]);
    std::memcpy(out.data() + i * sizeof(bits), &bits, sizeof(bits));
    if (numeric::float_from_bf16(bits) != values[i]) ++rounded;
  }
  return rounded;
}

void recast_fp4_to_fp8(std::span<const uint8_t> codes, std::span<const uint8_t> scales,
                       int64_t rows, int64_t columns, std::span<uint8_t> fp8_codes,
                       std::span<uint8_t> fp8_scales, int max_exponent_spread,
                       RecastCounts* counts) {
  const int64_t block_columns = ceil_div(columns, kFp8Block);
  CACHALOT_CHECK(columns % kFp4Group == 0);
  CACHALOT_CHECK(static_cast<int64_t>(codes.size()) == rows * columns / 2 &&
                 static_cast<int64_t>(scales.size()) == rows * columns / kFp4Group);
  CACHALOT_CHECK(static_cast<int64_t>(fp8_codes.size()) == rows * columns &&
                 static_cast<int64_t>(fp8_scales.size()) ==
                     ceil_div(rows, kFp8Block) * block_columns);
  const Fp4Matrix fp4{codes, scales, columns};
  RecastTable table(kHeadroom);
  for (size_t block = 0; block < fp8_scales.size(); ++block) {
    const int64_t at = static_cast<int64_t>(block);
    const int64_t first_row = at / block_columns * kFp8Block,
                  last_row = std::min(rows, first_row + kFp8Block);
    const int64_t first_group = at % block_columns * (kFp8Block / kFp4Group),
                  last_group = std::min(columns / kFp4Group, first_group + kFp8Block / kFp4Group);
    int largest = 0, smallest = 255;
    for (int64_t row = first_row; row < last_row; ++row) {
      for (int64_t group = first_group; group < last_group; ++group) {
        if (fp4.is_zero(row, group)) continue;
        largest = std::max<int>(largest, fp4.scale(row, group));
        smallest = std::min<int>(smallest, fp4.scale(row, group));
      }
    }
    if (smallest == 255) largest = smallest = kScaleBias;  // zeros alone
    fp8_scales[block] = static_cast<uint8_t>(std::max(0, largest - kHeadroom));
    bool exact = true;
    for (int64_t row = first_row; row < last_row; ++row) {
      for (int64_t group = first_group; group < last_group; ++group) {
        const int shift = fp4.scale(row, group) - fp8_scales[block];
        if (shift != table.shift) table = RecastTable(shift);
        exact &= table.apply(fp4.group(row, group),
                             fp8_codes.data() + row * columns + group * kFp4Group);
      }
    }
    ++counts->blocks;
    counts->max_spread = std::max(counts->max_spread, largest - smallest);
    if (largest - smallest > max_exponent_spread) ++counts->blocks_over_limit;
    if (!exact) ++counts->inexact_blocks;
  }
}

}  // namespace cachalot::formats
