// What tests of ops over cached rows share: cuts of a step into sequences, and a layer's memory.
#pragma once

#include <random>

#include "tests/cuda/gpu_context.h"

namespace cachalot::testing {

// Sequences with a chunk each: its first position and its length.
struct Cut {
  std::vector<int64_t> first_position;
  std::vector<int64_t> lengths;

  std::vector<int64_t> first_row() const {
    std::vector<int64_t> rows = {0};
    for (const int64_t length : lengths) rows.push_back(rows.back() + length);
    return rows;
  }
  int64_t rows() const { return first_row().back(); }
  int64_t sequences() const { return static_cast<int64_t>(lengths.size()); }
};
inline const Cut kCuts[] = {
    {{0}, {1}},
    {{0}, {300}},
    {{3, 0, 127, 508, 64}, {1, 0, 1, 9, 131}},
    {{7, 8, 9, 10, 255, 1000}, {1, 1, 1, 1, 1, 1}},
};

// A layer's memory of every sequence: rings and blocks of rows with the given layouts.
struct LayerMemory {
  static constexpr int64_t kCapacity = 256;
  static constexpr int64_t kRowsPerBlock = 6;
  static constexpr int64_t kNumBlocks = 180;
  tensor::RowLayout ring;
  tensor::RowLayout rows;
  int64_t num_sequences;
  std::vector<std::byte> content;

  LayerMemory(std::mt19937& rng, tensor::RowLayout ring_layout, tensor::RowLayout rows_layout,
              int64_t count)
      : ring(ring_layout),
        rows(rows_layout),
        num_sequences(count),
        content(static_cast<size_t>(count * (ring_bytes() + blocks_bytes()))) {
    // Floats, of which bytes and codes are some too.
    for (size_t i = 0; i + 4 <= content.size(); i += 4) {
      const float value = static_cast<float>(static_cast<int>(rng() % 2001) - 1000) / 256;
      std::memcpy(content.data() + i, &value, 4);
    }
  }
  int64_t ring_bytes() const { return kCapacity * ring.row_bytes(); }
  int64_t block_bytes() const { return kRowsPerBlock * rows.row_bytes(); }
  int64_t blocks_bytes() const { return kNumBlocks * block_bytes(); }

  std::byte* put(Side& side) const { return side.array(content); }
  // The last sequence has no rings where `sparse`.
  const tensor::LayerRows* layer_rows(Side& side, std::byte* base, bool sparse = false) const {
    std::vector<tensor::LayerRows> all;
    for (int64_t s = 0; s < num_sequences; ++s) {
      std::byte* own = base + s * (ring_bytes() + blocks_bytes());
      std::vector<std::byte*> blocks;
      for (int64_t i = 0; i < kNumBlocks; ++i)
        blocks.push_back(own + ring_bytes() + (kNumBlocks - 1 - i) * block_bytes());
      const tensor::RowRing of_ring = {sparse && s + 1 == num_sequences ? nullptr : own, kCapacity,
                                       ring};
      const tensor::RowBlocks of_blocks = {side.array(blocks), kRowsPerBlock, rows};
      all.push_back({of_ring, of_blocks, of_ring, of_blocks, of_ring});
    }
    return side.table(all);
  }
};

}  // namespace cachalot::testing
