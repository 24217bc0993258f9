// A group's queries, raw, in the places of wgmma's operand in shared memory: the norm of each head
// in steps of bf16 and the rotation (ops/rope/head_rows.h), in place, by two warpgroups.
#pragma once

#include "ops/attention/sparse_chunk.cuh"
#include "ops/rope/bf16_head.cuh"

namespace cachalot::ops::sparse {

// Four lanes a head, each with four of every 16 values.
constexpr int kRawLanes = 4;
constexpr int kRawRuns = kDim / 16;
constexpr int kTileRuns = kTileDims / 16;
constexpr int kRawAtOnce = 8;  // runs
static_assert(kHeads * kRawLanes == 256);

// A row's, of a lane's values in the last tile, which alone is rotated.
struct RawAngles {
  float2 cos[kTileRuns], sin[kTileRuns];

  __device__ __forceinline__ RawAngles(const RopeTable& table, int64_t row) {
    const int64_t at = row * (kTileDims / 2) + threadIdx.x % kRawLanes * 2;
#pragma unroll
    for (int i = 0; i < kTileRuns; ++i) {
      cos[i] = *reinterpret_cast<const float2*>(table.cos + at + i * 8);
      sin[i] = *reinterpret_cast<const float2*>(table.sin + at + i * 8);
    }
  }
};

// A lane's part of a head. It is read twice: the registers are the sums of values'.
class RawHead {
 public:
  __device__ __forceinline__ RawHead(uint8_t* tiles, int head) {
    const int lane = threadIdx.x % kRawLanes;
#pragma unroll
    for (int i = 0; i < kTileRuns; ++i)
      places_[i] = tiles + SwizzledTile::offset(head, 2 * i + lane / 2) + lane % 2 * 8;
  }
  // Of the norm, twice.
  __device__ __forceinline__ uint32_t factors(float eps) const {
    heads::Chains<kRawLanes> chains;
#pragma unroll
    for (int i = 0; i < kRawRuns; ++i) {
      const tile::Vector8 four = *place(i);
      chains.add(0, tile::multiply_bf16(four.word[0], four.word[0]));
      chains.add(2, tile::multiply_bf16(four.word[1], four.word[1]));
    }
    return chains.factors(kDim, eps);
  }
  __device__ __forceinline__ void finish(uint32_t factors, const RawAngles& angles) const {
#pragma unroll
    for (int first = 0; first < kRawRuns; first += kRawAtOnce) {
      tile::Vector8 fours[kRawAtOnce];
#pragma unroll
      for (int i = 0; i < kRawAtOnce; ++i) fours[i] = *place(first + i);
#pragma unroll
      for (int i = 0; i < kRawAtOnce; ++i)
        *place(first + i) = finished(fours[i], factors, angles, first + i);
    }
  }

 private:
  static __device__ __forceinline__ tile::Vector8 finished(tile::Vector8 four, uint32_t factors,
                                                           const RawAngles& angles, int run) {
#pragma unroll
    for (uint32_t& pair : four.word) pair = tile::multiply_bf16(pair, factors);
    const int at = run - (kRawRuns - kTileRuns);
    if (at >= 0) {
      four.word[0] = heads::rotated_pair(four.word[0], angles.cos[at].x, angles.sin[at].x);
      four.word[1] = heads::rotated_pair(four.word[1], angles.cos[at].y, angles.sin[at].y);
    }
    return four;
  }
  __device__ __forceinline__ tile::Vector8* place(int run) const {
    return reinterpret_cast<tile::Vector8*>(places_[run % kTileRuns] +
                                            run / kTileRuns * kTileBytes);
  }
  uint8_t* places_[kTileRuns];
};

// By 256 threads, of which the first is the block's. A warp has eight heads: the even ones by half
// of its lanes, so that what they read at once lies in different banks.
__device__ __forceinline__ void finish_raw_heads(uint8_t* tiles, const RawAngles& angles,
                                                 float eps) {
  const int thread = static_cast<int>(threadIdx.x);
  const RawHead own(tiles, thread / 32 * 8 + thread % 16 / kRawLanes * 2 + thread % 32 / 16);
  const uint32_t factors = own.factors(eps);
  __syncwarp();
  own.finish(factors, angles);
}

}  // namespace cachalot::ops::sparse
