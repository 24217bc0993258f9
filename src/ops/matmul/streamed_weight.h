// Weights in the order in which the GPU's products stream them: units of 16 output rows, each a run
// of bytes that the copy engine takes in stages, or a warp as it lies, and the tensor cores take as
// it lies. For FP4: StreamedFp4.
// Source  reference/forward 0.5 (LIN8, LIN4, LINB); the official arrays of codes and e8m0 scales
// in.
// Layout  a unit of fp8 holds its 128-input blocks in stages of 8, the last stage with what is
//         left. A stage of n blocks: n times the 2048 bytes of codes of 16 rows x 128 inputs in the
//         order of the wgmma fragments (tile/mma.cuh), then n fp32 scales, filled up to 16 bytes.
//         A unit of bf16 has no stages: 512 bytes for every 16 inputs.
//         Rows past the last are zero.
// Errors  invalid_argument: a NaN scale (255). Shapes are the caller's: CHECK.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/host_device.h"
#include "base/status.h"

namespace cachalot::ops {

enum class StreamedFormat { fp8, fp4, bf16 };

inline constexpr int kStreamedRows = 16;  // whose fragments lie together
inline constexpr int kStreamedBlock = 128;

struct StreamedLayout {
  StreamedFormat format;  // the places: not for fp4
  int64_t rows;
  int64_t columns;  // a multiple of 128, of bf16 of 16

  CACHALOT_HD int64_t num_blocks() const { return columns / kStreamedBlock; }
  int64_t num_units() const { return (rows + kStreamedRows - 1) / kStreamedRows; }
  CACHALOT_HD int64_t unit_bytes() const {
    if (format == StreamedFormat::bf16) return columns * 32;
    const int64_t rest = num_blocks() % kStageBlocks;
    return num_blocks() / kStageBlocks * stage_bytes(kStageBlocks) + stage_bytes(rest);
  }
  int64_t num_bytes() const { return num_units() * unit_bytes(); }

  // Where values lie. The byte of input k.
  CACHALOT_HD int64_t fp8_code(int64_t row, int64_t k) const {
    const Stage stage = stage_of(row, k / kStreamedBlock);
    return stage.first_byte + stage.block * 2048 + k % kStreamedBlock / 32 * 512 + row % 8 * 64 +
           k % 16 / 4 * 16 + (k % 32 / 16 * 2 + row % 16 / 8) * 4 + k % 4;
  }
  CACHALOT_HD int64_t fp8_scale(int64_t row, int64_t block) const {
    const Stage stage = stage_of(row, block);
    return stage.first_byte + stage.num_blocks * 2048 + stage.block * 4;
  }
  // The bytes of input k.
  CACHALOT_HD int64_t bf16_value(int64_t row, int64_t k) const {
    return row / 16 * unit_bytes() + k / 16 * 512 + row % 8 * 64 + k % 16 / 4 * 16 +
           (k % 4 / 2 * 2 + row % 16 / 8) * 4 + k % 2 * 2;
  }

 private:
  static constexpr int64_t kStageBlocks = 8;
  struct Stage {
    int64_t first_byte;
    int64_t num_blocks;
    int64_t block;  // of the stage
  };
  static CACHALOT_HD int64_t stage_bytes(int64_t blocks) {
    return (blocks * (2048 + 4) + 15) / 16 * 16;
  }
  CACHALOT_HD Stage stage_of(int64_t row, int64_t block) const {
    const int64_t in_stage = block % kStageBlocks;
    const int64_t left = num_blocks() - block + in_stage;
    return {row / kStreamedRows * unit_bytes() + block / kStageBlocks * stage_bytes(kStageBlocks),
            left < kStageBlocks ? left : kStageBlocks, in_stage};
  }
};

// codes [rows, columns] e4m3, scales [ceil(rows / 128), columns / 128] e8m0.
Result<std::vector<std::byte>> stream_fp8(const uint8_t* codes, const uint8_t* scales, int64_t rows,
                                          int64_t columns);
// codes [rows, columns / 2], input 2i in the low nibble of byte i; scales [rows, columns / 32]
// e8m0.
Result<std::vector<std::byte>> stream_fp4(const uint8_t* codes, const uint8_t* scales, int64_t rows,
                                          int64_t columns);
// Gate and up of an expert in one: 16 rows after 16 rows, eight of the gate, then those of up.
// rows counts each of the two, a multiple of 8.
Result<std::vector<std::byte>> stream_fp4_gate_up(const uint8_t* gate_codes,
                                                  const uint8_t* gate_scales,
                                                  const uint8_t* up_codes, const uint8_t* up_scales,
                                                  int64_t rows, int64_t columns);

}  // namespace cachalot::ops
