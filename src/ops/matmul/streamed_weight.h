// Weights in the order in which the GPU's products stream them: units of 16 (fp8, bf16) or 64 (fp4)
// output rows, each a run of bytes that the copy engine takes in stages, or a warp as it lies, and
// the tensor cores take as it lies.
// Source  reference/forward 0.5 (LIN8, LIN4, LINB); the official arrays of codes and e8m0 scales
// in.
// Layout  a unit holds its 128-input blocks in stages of 8 (fp8) or 4 (fp4), the last stage of a
//         unit with what is left. A stage of n blocks: n times the codes of its rows x 128 inputs,
//         16 rows after 16 rows, in the order of the wgmma fragments (tile/mma.cuh), then n times
//         the scales. Of 16 rows:
//           fp8: 2048 bytes of codes; one fp32 scale; the stage filled up to 16 bytes
//           fp4: 1024 bytes of codes, two a byte; 64 e8m0 bytes, [row % 8][input / 32][row / 8]
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
  StreamedFormat format;
  int64_t rows;
  int64_t columns;  // a multiple of 128, of bf16 of 16

  CACHALOT_HD int unit_rows() const { return format == StreamedFormat::fp4 ? 64 : 16; }
  CACHALOT_HD int blocks_per_stage() const { return format == StreamedFormat::fp8 ? 8 : 4; }
  CACHALOT_HD int64_t num_blocks() const { return columns / kStreamedBlock; }
  int64_t num_units() const { return (rows + unit_rows() - 1) / unit_rows(); }
  CACHALOT_HD int64_t stage_bytes(int64_t blocks) const {
    return format == StreamedFormat::fp8 ? (blocks * (2048 + 4) + 15) / 16 * 16 : blocks * 4 * 1088;
  }
  CACHALOT_HD int64_t unit_bytes() const {
    if (format == StreamedFormat::bf16) return columns * 32;
    const int64_t rest = num_blocks() % blocks_per_stage();
    return num_blocks() / blocks_per_stage() * stage_bytes(blocks_per_stage()) +
           (rest != 0 ? stage_bytes(rest) : 0);
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
  // The byte of input k, in its high nibble, and input k + 16; k % 32 < 16.
  CACHALOT_HD int64_t fp4_code(int64_t row, int64_t k) const {
    const Stage stage = stage_of(row, k / kStreamedBlock);
    const int64_t step = k % kStreamedBlock / 32;
    return stage.first_byte + (stage.block * 4 + row % 64 / 16) * 1024 + step / 2 * 512 +
           row % 8 * 64 + k % 16 / 4 * 16 + (step % 2 * 2 + row % 16 / 8) * 4 + k % 4;
  }
  // The bytes of input k.
  CACHALOT_HD int64_t bf16_value(int64_t row, int64_t k) const {
    return row / 16 * unit_bytes() + k / 16 * 512 + row % 8 * 64 + k % 16 / 4 * 16 +
           (k % 4 / 2 * 2 + row % 16 / 8) * 4 + k % 2 * 2;
  }
  CACHALOT_HD int64_t fp4_scale(int64_t row, int64_t k) const {
    const Stage stage = stage_of(row, k / kStreamedBlock);
    return stage.first_byte + stage.num_blocks * 4096 + (stage.block * 4 + row % 64 / 16) * 64 +
           row % 8 * 8 + k % kStreamedBlock / 32 * 2 + row % 16 / 8;
  }

 private:
  struct Stage {
    int64_t first_byte;
    int64_t num_blocks;
    int64_t block;  // of the stage
  };
  CACHALOT_HD Stage stage_of(int64_t row, int64_t block) const {
    const int64_t in_stage = block % blocks_per_stage();
    const int64_t left = num_blocks() - block + in_stage;
    return {row / unit_rows() * unit_bytes() +
                block / blocks_per_stage() * stage_bytes(blocks_per_stage()),
            left < blocks_per_stage() ? left : blocks_per_stage(), in_stage};
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
