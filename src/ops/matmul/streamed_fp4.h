// Expert weights in FP4 in the order in which the GPU's products stream them: units of 64 output
// rows, each a run of bytes that the copy engine takes in stages and the tensor cores take as it
// lies. Made by stream_fp4 and stream_fp4_gate_up (streamed_weight.h) and StreamPanels.
// Source  reference/forward 0.5 (LIN4).
// Layout  a unit holds its 128-input blocks in stages of 4, the last stage of a unit with what is
//         left. A stage of n blocks: n times the codes of its rows x 128 inputs, 16 rows after 16
//         rows, in the order of the wgmma fragments (tile/mma.cuh), then n times how far the scales
//         lie below the row's largest. Of 16 rows: 1024 bytes of codes, four bytes for eight
//         inputs (word); 64 bytes, [row % 8][row / 8][input / 32], in binades, at most kMaxBelow.
//         Of the products of a block, each with 32 inputs, the first takes the first eight inputs
//         of each 32, the next the next: so a lane's inputs of a row have one scale (place).
//         After the last unit an e8m0 byte for each row: its largest scale. Scales of zeros alone
//         do not count. Rows past the last are zero.
#pragma once

#include <cstdint>

#include "base/host_device.h"
#include "ops/matmul/streamed_weight.h"

namespace cachalot::ops {

struct StreamedFp4 {
  int64_t rows;
  int64_t columns;  // a multiple of 128

  static constexpr int kUnitRows = 64;
  static constexpr int kStageBlocks = 4;
  static constexpr int kBlockBytes = kUnitRows * (64 + 4);
  // Then e4m3 holds all values of a row relative to its largest scale, times 2^6, as normal ones.
  static constexpr int kMaxBelow = 11;

  CACHALOT_HD int64_t num_blocks() const { return columns / kStreamedBlock; }
  CACHALOT_HD int64_t num_units() const { return (rows + kUnitRows - 1) / kUnitRows; }
  CACHALOT_HD int64_t padded_rows() const { return num_units() * kUnitRows; }
  CACHALOT_HD int64_t unit_bytes() const { return num_blocks() * kBlockBytes; }
  CACHALOT_HD int64_t num_bytes() const { return num_units() * unit_bytes() + padded_rows(); }

  // The place of input k of a block, and of the three after it, among those of the products: the
  // activations lie so. k % 4 == 0.
  static CACHALOT_HD constexpr int place(int k) {
    return k % 32 / 8 * 32 + k % 8 / 4 * 16 + k / 32 * 4;
  }

  // Where values lie. The four bytes of inputs k to k + 7; k % 8 == 0.
  CACHALOT_HD int64_t codes(int64_t row, int64_t k) const {
    const int64_t block = k / kStreamedBlock, group = k % kStreamedBlock / 32, step = k % 32 / 8;
    return stage(row, block) + (block % kStageBlocks * 4 + row % 64 / 16) * 1024 + step / 2 * 512 +
           row % 8 * 64 + group * 16 + (step % 2 * 2 + row % 16 / 8) * 4;
  }
  CACHALOT_HD int64_t below(int64_t row, int64_t k) const {
    const int64_t block = k / kStreamedBlock, in_stage = block % kStageBlocks;
    const int64_t left = num_blocks() - block + in_stage;
    return stage(row, block) + (left < kStageBlocks ? left : kStageBlocks) * kUnitRows * 64 +
           (in_stage * 4 + row % 64 / 16) * 64 + row % 8 * 8 + row % 16 / 8 * 4 +
           k % kStreamedBlock / 32;
  }
  CACHALOT_HD int64_t row_scale(int64_t row) const { return num_units() * unit_bytes() + row; }

  // Eight codes, code(0) to code(7): the low bits of nibble i are the magnitude of value i; the
  // signs of the first four values are bits 7, 15, 23, 31, those of the others 3, 11, 19, 27.
  template <typename Code>
  static CACHALOT_HD uint32_t word(const Code& code) {
    uint32_t word = 0;
    for (int i = 0; i < 8; ++i) {
      const auto own = static_cast<uint32_t>(code(i));
      word |= (own & 7) << (4 * i) | (own >> 3) << (i < 4 ? 8 * i + 7 : 8 * (i - 4) + 3);
    }
    return word;
  }

  // The scales of a row's groups of 32 inputs: scale(g) is the byte of group g, is_zero(g) whether
  // all its values are.
  struct RowScales {
    int largest = 0;
    bool fits = true;  // none lies more than kMaxBelow below

    template <typename Scale, typename IsZero>
    CACHALOT_HD RowScales(int64_t num_groups, const Scale& scale, const IsZero& is_zero) {
      find(num_groups, scale, [](int64_t) { return false; });
      if (!fits) find(num_groups, scale, is_zero);
    }
    CACHALOT_HD int below(int scale) const {
      const int distance = largest - scale;
      return distance < 0 ? 0 : distance > kMaxBelow ? kMaxBelow : distance;
    }

   private:
    template <typename Scale, typename Skips>
    CACHALOT_HD void find(int64_t num_groups, const Scale& scale, const Skips& skips) {
      int least = 255;
      largest = 0;
      for (int64_t g = 0; g < num_groups; ++g) {
        if (skips(g)) continue;
        const int own = scale(g);
        largest = own > largest ? own : largest;
        least = own < least ? own : least;
      }
      fits = largest - least <= kMaxBelow;
    }
  };

 private:
  CACHALOT_HD int64_t stage(int64_t row, int64_t block) const {
    return row / kUnitRows * unit_bytes() + block / kStageBlocks * (kStageBlocks * kBlockBytes);
  }
};

}  // namespace cachalot::ops
