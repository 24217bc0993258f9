// x of a dense product of many rows as its kernel reads it (dense_many_cuda.cu): whole blocks of
// 128 inputs, each brought by one copy. Internal to ops/matmul.
// Numerics  quantised as ACT8 (ops/quant/act8_run.cuh). Rows past the last are zeros.
// Errors    none: dense_many_fits and make_dense_plan have checked what is read.
#pragma once

#include <cstdint>
#include <type_traits>

#include "ops/matmul/dense_many.h"
#include "ops/quant/act8_run.cuh"
#include "tile/mma.cuh"
#include "tile/order.cuh"

namespace cachalot::ops::dense_many {

inline constexpr int kHalfTokens = 64;  // a block has one or two halves

// The blocks of an input in the order of the chains (streamed_product.cuh): of each chain those
// that follow by eights.
inline constexpr int kChains = 8;
struct ChainOrder {
  int num_blocks;
  int chain = 0;
  int block = 0;

  __device__ __forceinline__ bool ends_chain() const { return block + kChains >= num_blocks; }
  __device__ __forceinline__ void advance() {
    block += kChains;
    if (block >= num_blocks) block = ++chain;
  }
};

// The place of a block in that order: the first chains have a block more.
__device__ __forceinline__ int chain_place(int block, int num_blocks) {
  const int chain = block % kChains;
  return chain * (num_blocks / kChains) + min(chain, num_blocks % kChains) + block / kChains;
}

// What lies in memory of 128 inputs of some rows of x: codes as CoreMatrices, then scales.
__host__ __device__ constexpr int block_bytes(int tokens) { return tokens * (128 + 4); }

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
  uint8_t* prepared;  // [rows of a block of the product][block]: block_bytes
  int64_t unit_bytes;
  int units;
  int num_groups;
  Group groups[kMaxDenseGroups];
};

// A block of 128 inputs of p.tokens rows: half a warp quantises a run of a row.
template <typename T>
__device__ __forceinline__ void prepare_block(const Params& p, const T* x) {
  uint8_t* const to =
      p.prepared + (int64_t{blockIdx.y} * p.blocks + blockIdx.x) * block_bytes(p.tokens);
  using Values = RunValues<T>;
  using B = tile::CoreMatrices<kHalfTokens>;
  for (int token = static_cast<int>(threadIdx.x) / 16; token < p.tokens;
       token += static_cast<int>(blockDim.x) / 16) {
    const int64_t row = int64_t{blockIdx.y} * p.tokens + token;
    Values v;
    if (row < p.m) v.load(x + row * p.x_stride + int64_t{blockIdx.x} * 128);
    const Act8 q = quantise_act8(v.bf16());
    if constexpr (std::is_same_v<T, uint16_t>) {  // a lane's lie together: whole sectors at once
      *reinterpret_cast<uint2*>(to + B::offset(token, Values::place(0), 16 * p.tokens)) =
          make_uint2(q.codes[0], q.codes[1]);
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        *reinterpret_cast<uint32_t*>(to + B::offset(token, Values::place(i), 16 * p.tokens)) =
            q.codes[i];
      }
    }
    if (threadIdx.x % 16 == 0)
      *reinterpret_cast<float*>(to + p.tokens * 128 + scale_place(token) * 4) = q.scale;
  }
}

static __global__ void __launch_bounds__(256) prepare_kernel(const __grid_constant__ Params p) {
  tile::launch_dependents();
  tile::wait_for_producers();
  if (p.float_x) {
    prepare_block(p, static_cast<const float*>(p.x));
  } else {
    prepare_block(p, static_cast<const uint16_t*>(p.x));
  }
}

}  // namespace cachalot::ops::dense_many
