// Block quantisers for weights: fp32 values to the public checkpoints' FP8 and FP4 layouts, exact
// to the bit.
// Source  reference/forward 0.3, 0.4 (the activation quantisers' rule, with a tile for the run),
//         7.3. a = max(|x| over the block, floor);  s = 2^e, e = POW2CEIL(a * (1/largest code));
//         code = round(clamp(x / s))
//         FP8: floor 1e-4, largest 448. FP4: floor 6 * 2^-126, largest 6.
//
// A block whose largest code is small does not tell its scale: 3 * 2^k and 6 * 2^(k-1) are one
// value, and the rule above takes the second spelling. To give back the bytes of a given
// checkpoint, its scales can be passed as `preferred`: a block takes the preferred scale where
// every value of the block is exactly a code times it, and the rule's scale elsewhere. Dequantised
// values therefore always come back as the same values, and with `preferred` as the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace cachalot::formats {

// Shapes  values [rows, columns]; codes [rows, columns]; scales (and preferred, which may be empty)
//         [ceil(rows / block_rows), ceil(columns / block_columns)] e8m0. Blocks at the edges may be
//         partial.
// Errors  invalid_argument for a value that is not finite, with its coordinates.
struct QuantizeCounts {
  int64_t blocks = 0;
  int64_t preferred_blocks = 0;  // that took the preferred scale
  int64_t inexact_blocks = 0;    // whose values are not all kept exactly
};
Status quantize_fp8_blocks(std::span<const float> values, int64_t rows, int64_t columns,
                           int64_t block_rows, int64_t block_columns,
                           std::span<const uint8_t> preferred, std::span<uint8_t> codes,
                           std::span<uint8_t> scales, QuantizeCounts* counts);

// Shapes  values [rows, columns], columns a multiple of 32; codes [rows, columns / 2], the even
//         column in the low nibble; scales and preferred [rows, columns / 32].
Status quantize_fp4_groups(std::span<const float> values, int64_t rows, int64_t columns,
                           std::span<const uint8_t> preferred, std::span<uint8_t> codes,
                           std::span<uint8_t> scales, QuantizeCounts* counts);

// bf16, two bytes each (CHECK). Returns how many values it does not hold exactly.
int64_t encode_bf16(std::span<const float> values, std::span<std::byte> out);

// FP4 groups as FP8 in blocks of 128 x 128, the values of a block kept exactly where its scales lie
// close enough (reference/training 9.3).
//         E = the largest exponent of the block's groups;  block scale 2^(E - 6);  code = e4m3(q *
//         2^(e - E + 6))
// e4m3 holds every code exactly while E - e <= 14 (the last three among its subnormals), and what
// lies below rounds. The published kernel asserts E - e <= 11. Groups of zeros alone, which have
// the floor's scale, are exact anywhere and do not count.
// Shapes  codes and scales as quantize_fp4_groups writes them; fp8_codes [rows, columns];
//         fp8_scales [ceil(rows / 128), ceil(columns / 128)]. CHECK.
inline constexpr int kMaxFp4ExponentSpread = 11;
struct RecastCounts {
  int64_t blocks = 0;
  int64_t blocks_over_limit = 0;  // with E - e above the limit given
  int64_t inexact_blocks = 0;     // a value changed
  int max_spread = 0;             // the largest E - e
};
void recast_fp4_to_fp8(std::span<const uint8_t> codes, std::span<const uint8_t> scales,
                       int64_t rows, int64_t columns, std::span<uint8_t> fp8_codes,
                       std::span<uint8_t> fp8_scales, int max_exponent_spread,
                       RecastCounts* counts);

}  // namespace cachalot::formats
