// The weights of a launch as its kernels find them, units of 16 outputs of one part after those of
// another. Internal to ops/matmul.
#pragma once

#include "ops/matmul/bf16_product_cuda.h"
#include "ops/matmul/bf16_tiles.cuh"
#include "tile/copy.cuh"

namespace cachalot::ops::bf16_tiles {

struct Part {
  const tile::Vector16* weight;
  Outputs out;
  int first;  // block of all parts' units
};

struct Parts {
  int count;
  Part part[kMaxBf16Parts];

  // Of a block of units.
  __device__ __forceinline__ const Part& find(int block) const {
    int i = 0;
    while (i + 1 < count && block >= part[i + 1].first) ++i;
    return part[i];
  }
  // Cuts each part's units into blocks of so many; gives their number. Once.
  int cut(const Bf16Products& products, int units_per_block) {
    int blocks = 0;
    for (const Bf16Part& p : products.parts) {
      const auto units = static_cast<int>((p.rows + 15) / 16);
      part[count++] = {reinterpret_cast<const tile::Vector16*>(p.weight),
                       {p.y, p.y_stride, static_cast<int>(p.rows), p.round_y},
                       blocks};
      blocks += (units + units_per_block - 1) / units_per_block;
    }
    return blocks;
  }
};

inline int64_t num_units(const Bf16Products& products) {
  int64_t units = 0;
  for (const Bf16Part& p : products.parts) units += (p.rows + 15) / 16;
  return units;
}

}  // namespace cachalot::ops::bf16_tiles
