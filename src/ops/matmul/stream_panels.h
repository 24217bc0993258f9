// Packed panels (packed_weight.h) in the order in which the GPU's tensor cores stream them
// (streamed_weight.h): the same codes and scales. Written for a GPU, one item a thread; any order
// of items, or all at once.
#pragma once

#include <cstring>

#include "base/host_device.h"
#include "ops/matmul/streamed_fp4.h"

namespace cachalot::ops {

struct StreamPanels {
  StreamedLayout layout;  // of all that lies at `to`, whose bytes are zero before
  int64_t rows;           // of the panels
  const std::byte* panels;
  int64_t scales_offset;  // fp8
  std::byte* to;
  // Eight rows of these panels, then eight of another's: the gate (0) or the up (1) of an expert.
  int half = -1;
  int32_t* misfits = nullptr;  // fp4: of how many rows the scales do not fit is added

  // fp8: four codes of a row; fp4: 32 values; bf16: two.
  CACHALOT_HD int64_t num_items() const {
    const int64_t of_item = layout.format == StreamedFormat::fp8   ? 4
                            : layout.format == StreamedFormat::fp4 ? 32
                                                                   : 2;
    return rows * layout.columns / of_item;
  }
  CACHALOT_HD void move(int64_t item) const {
    if (layout.format == StreamedFormat::fp8) return move_fp8(item % rows, item / rows * 4);
    if (layout.format == StreamedFormat::bf16) return move_bf16(item % rows, item / rows * 2);
    move_fp4(item % rows, item / rows * 32);
  }

 private:
  CACHALOT_HD int64_t width_of(int64_t panel) const {
    const int64_t left = rows - panel * 64;
    return left >= 64 ? 64 : (left + 15) / 16 * 16;
  }
  CACHALOT_HD void move_fp8(int64_t row, int64_t k) const {
    const int64_t panel = row / 64, block = k / 128;
    std::memcpy(to + layout.fp8_code(row, k),
                panels + panel * 64 * layout.columns + (k / 4 * width_of(panel) + row % 64) * 4, 4);
    if (k % 128 != 0 || row % 16 != 0) return;
    std::memcpy(to + layout.fp8_scale(row, block),
                panels + scales_offset + (panel * layout.num_blocks() + block) * 4, 4);
  }
  CACHALOT_HD void move_bf16(int64_t row, int64_t k) const {
    const int64_t panel = row / 64;
    std::memcpy(to + layout.bf16_value(row, k),
                panels + panel * 128 * layout.columns + (k / 2 * width_of(panel) + row % 64) * 4,
                4);
  }
  CACHALOT_HD void move_fp4(int64_t row, int64_t k) const {
    const StreamedFp4 there{layout.rows, layout.columns};
    const int64_t panel = row / 64, width = width_of(panel), lane = row % 64;
    const std::byte* const from = panels + panel * 64 * layout.columns / 32 * 17 + lane;
    const auto scale = [&](int64_t group) { return static_cast<int>(from[group * 17 * width]); };
    const auto code = [&](int64_t group, int64_t input) {
      const int64_t byte = width + input / 8 * width * 4 + lane / 8 * 32 + lane % 8 / 4 * 16 +
                           input % 4 / 2 * 8 + lane % 4 * 2 + input % 2 - lane;
      return static_cast<int>(from[group * 17 * width + byte]) >> (input % 8 / 4 * 4) & 15;
    };
    const StreamedFp4::RowScales scales(layout.columns / 32, scale, [&](int64_t group) {
      int all = 0;
      for (int64_t input = 0; input < 32; ++input) all |= code(group, input);
      return (all & 7) == 0;
    });
    const int64_t row_there = half < 0 ? row : row / 8 * 16 + half * 8 + row % 8;
    const int64_t group = k / 32;
    for (int64_t at = 0; at < 32; at += 8) {
      const uint32_t word = StreamedFp4::word([&](int i) { return code(group, at + i); });
      std::memcpy(to + there.codes(row_there, k + at), &word, sizeof(word));
    }
    to[there.below(row_there, k)] = static_cast<std::byte>(scales.below(scale(group)));
    if (group != 0) return;
    to[there.row_scale(row_there)] = static_cast<std::byte>(scales.largest);
    if (!scales.fits) count_misfit();
  }
  CACHALOT_HD void count_misfit() const {
    if (misfits == nullptr) return;
#ifdef __CUDA_ARCH__
    atomicAdd(misfits, 1);
#else
    ++*misfits;
#endif
  }
};

}  // namespace cachalot::ops
