// x of a dense product of many rows as its kernel reads it (dense_many_cuda.cu): whole blocks of
// 128 inputs, each brought by one copy. Internal to ops/matmul.
// Numerics  quantised as ACT8 (ops/quant/act8_run.cuh), or rounded to bf16 for the form
//           unquantised. Rows past the last are zeros.
// Errors    none: dense_many_fits and make_dense_plan have checked what is read.
#pragma once

#include <cstdint>

#include "ops/matmul/bf16_tiles.cuh"
#include "ops/matmul/dense_many.h"
#include "ops/quant/act8_run.cuh"
#include "tile/convert.cuh"
#include "tile/mma.cuh"
#include "tile/order.cuh"
#include "tile/wgmma_bf16.cuh"

namespace cachalot::ops::dense_many {

inline constexpr int kHalfTokens = 64;  // a block has one or two halves

// What lies in memory of 128 inputs of some rows of x. wide, the form unquantised: in bf16, of
// every 64 rows two swizzled tiles of 64 inputs, each 16 of them in the order of four_apart; else
// codes as CoreMatrices, then scales.
__host__ __device__ constexpr int block_bytes(bool wide, int tokens) {
  return tokens * (wide ? 256 : 128 + 4);
}

struct Group {
  const uint8_t* weight;
  void* y;
  int64_t y_stride;
  int rows;
  int first_unit;  // of all groups' units
};

struct Params {
  const void* x;
  int64_t x_stride;
  bool float_x;
  bool float_y;
  int m;
  int blocks;         // of 128 inputs
  int tokens;         // of a block
  uint8_t* prepared;  // [rows of a block of the product][x of a group][block]: block_bytes
  int64_t unit_bytes;
  int units;
  int num_groups;
  Group groups[kMaxDenseGroups];
};

// A block of 128 inputs of p.tokens rows: half a warp quantises a run of a row.
template <typename T>
__device__ __forceinline__ void prepare_block(const Params& p, const T* x) {
  uint8_t* const to =
      p.prepared + (int64_t{blockIdx.y} * p.blocks + blockIdx.x) * block_bytes(false, p.tokens);
  using Values = RunValues<T>;
  using B = tile::CoreMatrices<kHalfTokens>;
  for (int token = static_cast<int>(threadIdx.x) / 16; token < p.tokens;
       token += static_cast<int>(blockDim.x) / 16) {
    const int64_t row = int64_t{blockIdx.y} * p.tokens + token;
    Values v;
    if (row < p.m) v.load(x + row * p.x_stride + int64_t{blockIdx.x} * 128);
    const Act8 q = quantise_act8(v.bf16());
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      *reinterpret_cast<uint32_t*>(to + B::offset(token, Values::place(i), 16 * p.tokens)) =
          q.codes[i];
    }
    if (threadIdx.x % 16 == 0)
      *reinterpret_cast<float*>(to + p.tokens * 128 + scale_place(token) * 4) = q.scale;
  }
}

__global__ void __launch_bounds__(256) prepare_kernel(const __grid_constant__ Params p) {
  tile::launch_dependents();
  tile::wait_for_producers();
  if (p.float_x) {
    prepare_block(p, static_cast<const float*>(p.x));
  } else {
    prepare_block(p, static_cast<const uint16_t*>(p.x));
  }
}

// x of the form unquantised: a thread 16 inputs of a row, whose first and second two of each four
// become the first and the second half, as the codes' expansion has them.
__global__ void __launch_bounds__(256) prepare_wide_kernel(const __grid_constant__ Params p) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const int steps = p.blocks * p.num_groups * 8;
  const int step = static_cast<int>(blockIdx.x) * 256 + static_cast<int>(threadIdx.x);
  if (step >= steps) return;
  const int64_t row = blockIdx.y;
  tile::Vector16 halves[2] = {};
  if (row < p.m) {
    const auto* const from = reinterpret_cast<const tile::Vector16*>(
        static_cast<const float*>(p.x) + row * p.x_stride + step * 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint2 four = bf16_tiles::pack_four(tile::load_shared_state(from + i));
      halves[0].word[i] = four.x;
      halves[1].word[i] = four.y;
    }
  }
  const int block = step / 8, in_block = step % 8;
  const int token = static_cast<int>(row % p.tokens);
  uint8_t* const to =
      p.prepared +
      (row / p.tokens * (p.blocks * p.num_groups) + block) * block_bytes(true, p.tokens) +
      (token / kHalfTokens * 2 + in_block / 4) * (kHalfTokens * tile::SwizzledTile::kRowBytes);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    *reinterpret_cast<tile::Vector16*>(
        to + tile::SwizzledTile::offset(token % kHalfTokens, in_block % 4 * 2 + i)) = halves[i];
  }
}

// The same of x in bf16: a thread eight inputs, of which it keeps half, for half of a neighbour's.
__global__ void __launch_bounds__(256) prepare_bf16_kernel(const __grid_constant__ Params p) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const int at = static_cast<int>(blockIdx.x) * 256 + static_cast<int>(threadIdx.x);
  const int64_t row = blockIdx.y;
  const bool is_there = at < p.blocks * p.num_groups * 16;
  tile::Vector16 v = {};
  if (is_there && row < p.m) {
    v = tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(
        static_cast<const uint16_t*>(p.x) + row * p.x_stride + int64_t{at} * 8));
  }
  const bool second = at % 2 != 0;
  tile::Vector16 half;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t other =
        __shfl_xor_sync(0xFFFFFFFFu, second ? v.word[2 * i] : v.word[2 * i + 1], 1);
    half.word[i] = second ? other : v.word[2 * i];
    half.word[2 + i] = second ? v.word[2 * i + 1] : other;
  }
  if (!is_there) return;
  const int block = at / 16, in_block = at / 2 % 8;
  const int token = static_cast<int>(row % p.tokens);
  uint8_t* const to =
      p.prepared +
      (row / p.tokens * (p.blocks * p.num_groups) + block) * block_bytes(true, p.tokens) +
      (token / kHalfTokens * 2 + in_block / 4) * (kHalfTokens * tile::SwizzledTile::kRowBytes);
  *reinterpret_cast<tile::Vector16*>(
      to + tile::SwizzledTile::offset(token % kHalfTokens, in_block % 4 * 2 + at % 2)) = half;
}

}  // namespace cachalot::ops::dense_many
