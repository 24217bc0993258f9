// What the product of very many rows (dense_bulk_cuda.cu) reads: pieces of 128 bytes of inputs of
// some rows, each brought by one copy, and laid out by kernels of their own but for x in bf16
// (unquantised), of which the copy engine makes pieces. Internal to ops/matmul.
// Layout    a piece holds 128 inputs in e4m3, or 64 in bf16, of a block's rows of x or of 128
//           outputs. In a piece of x in e4m3 rows lie as the columns of tile::CoreMatrices, and
//           codes are followed by the rows' scales; in bf16 it is a tile::SwizzledTile. In a piece
//           of a weight eight outputs are together, [output / 8][16 bytes of inputs][output % 8].
// Numerics  x is quantised as ACT8, or is bf16; the codes of a weight are exact in bf16. Rows and
//           outputs past the last are zeros.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "ops/matmul/bf16_tiles.cuh"
#include "ops/matmul/dense_many_prepare.cuh"
#include "ops/matmul/streamed_weight.h"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/lanes.cuh"
#include "tile/mma.cuh"
#include "tile/order.cuh"

namespace cachalot::ops::dense_bulk {

inline constexpr int kMostRows = 256;  // of x, of a block
inline constexpr int kOutputs = 128;   // of a block, with one scale for 128 inputs
inline constexpr int kUnitRows = 16;
inline constexpr int kPieceInputs = 128;  // bytes of each row
inline constexpr int kWeightPiece = kOutputs * kPieceInputs;

__host__ __device__ constexpr int x_piece(bool wide, int rows) {
  return rows * (kPieceInputs + (wide ? 0 : 4));
}
__host__ __device__ constexpr int pieces_of_block(bool wide) { return wide ? 2 : 1; }

struct Group {
  const uint8_t* weight;  // as ops/matmul/streamed_weight.h
  void* y;
  int64_t y_stride;
  int rows;
  int first_tile;  // of all groups' tiles of kOutputs
};

struct Params {
  CUtensorMap x_rows;    // unquantised: of x in bf16
  dense_many::Params x;  // x and its prepared pieces; unquantised: its rows in bf16
  uint8_t* weight;       // [tile][block of 128 inputs][piece]: kWeightPiece
  float* weight_scales;  // [tile][block's place in the order of the chains]
  int tiles;
  int num_groups;
  Group groups[kMaxDenseGroups];
};

__device__ __forceinline__ int find_group(const Params& p, int tile) {
  int g = 0;
  while (g + 1 < p.num_groups && tile >= p.groups[g + 1].first_tile) ++g;
  return g;
}

// What a block of threads lays: 128 inputs of a tile.
struct LaidBlock {
  uint8_t* codes;  // as Params::weight
  float* scales;   // as Params::weight_scales
  int rows;        // of the weight
  int blocks;      // of 128 inputs
  int tile;        // of the weight
  int to_tile;
  int block;
};

// By 256 threads. A lane reads what lies together, and gives three of its four words to the lanes
// of the same row.
template <bool kWide>
__device__ __forceinline__ void lay_block(const uint8_t* weight, const LaidBlock& p) {
  const int first_row = p.tile * kOutputs, block = p.block;
  const StreamedLayout layout{StreamedFormat::fp8, p.rows, int64_t{p.blocks} * 128};
  const int lane = static_cast<int>(threadIdx.x) % 32, q = lane % 4;
  uint8_t* const to =
      p.codes + (int64_t{p.to_tile} * p.blocks + block) * pieces_of_block(kWide) * kWeightPiece;
  if (threadIdx.x == 0) {
    p.scales[p.to_tile * p.blocks + dense_many::chain_place(block, p.blocks)] =
        __ldg(reinterpret_cast<const float*>(weight + layout.fp8_scale(first_row, block)));
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int part = i * 8 + static_cast<int>(threadIdx.x) / 32;  // 32 inputs of a unit
    const int unit = part / 4, step = part % 4;
    const int row = first_row + unit * kUnitRows;
    uint32_t words[4] = {};  // [input / 16][row / 8] of a lane's inputs; then [input / 4]
    if (row < p.rows) {
      const tile::Vector16 v = tile::load_once(reinterpret_cast<const tile::Vector16*>(
          weight + layout.fp8_code(row, int64_t{block} * 128 + step * 32) + lane * 16));
#pragma unroll
      for (int j = 0; j < 4; ++j) words[j] = v.word[j];
    }
    tile::transpose_among_four(words);
    // Now of the lane: 16 inputs of one row.
    const int to_row = unit * 2 + q % 2, sixteen = step * 2 + q / 2;
    if constexpr (kWide) {
      tile::Vector16 eights[2];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t pairs[2];
        tile::e4m3_to_bf16(words[j], pairs[0], pairs[1]);
#pragma unroll
        for (int k = 0; k < 2; ++k)
          eights[j / 2].word[j % 2 * 2 + k] = tile::multiply_bf16(pairs[k], tile::kTwoTo120);
      }
      uint8_t* const piece = to + sixteen / 4 * kWeightPiece;
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        *reinterpret_cast<tile::Vector16*>(piece + to_row * 1024 + (sixteen % 4 * 2 + k) * 128 +
                                           lane / 4 * 16) = eights[k];
      }
    } else {
      tile::Vector16 v;
#pragma unroll
      for (int j = 0; j < 4; ++j) v.word[j] = words[j];
      *reinterpret_cast<tile::Vector16*>(to + to_row * 1024 + sixteen * 128 + lane / 4 * 16) = v;
    }
  }
}

// Of a product whose weights are not laid already (laid_weights.h).
template <bool kWide>
__global__ void __launch_bounds__(256) lay_weight_kernel(const __grid_constant__ Params p) {
  // Weights do not depend on the kernel before, but the place for them does.
  tile::launch_dependents();
  tile::wait_for_producers();
  const int tile = static_cast<int>(blockIdx.y);
  const Group& group = p.groups[find_group(p, tile)];
  lay_block<kWide>(group.weight, {p.weight, p.weight_scales, group.rows, p.x.blocks,
                                  tile - group.first_tile, tile, static_cast<int>(blockIdx.x)});
}

// x of the form unquantised where it is float: a thread eight inputs of a row.
static __global__ void __launch_bounds__(256) round_rows_kernel(const __grid_constant__ Params p) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const int eights = p.x.blocks * p.num_groups * 16;  // of a row
  const int64_t at = int64_t{blockIdx.x} * 256 + threadIdx.x;
  if (at >= int64_t{p.x.m} * eights) return;
  const float* const from =
      static_cast<const float*>(p.x.x) + at / eights * p.x.x_stride + at % eights * 8;
  uint2 fours[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    fours[i] = bf16_tiles::pack_four(
        tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(from + i * 4)));
  }
  reinterpret_cast<uint4*>(p.x.prepared)[at] =
      make_uint4(fours[0].x, fours[0].y, fours[1].x, fours[1].y);
}

}  // namespace cachalot::ops::dense_bulk
