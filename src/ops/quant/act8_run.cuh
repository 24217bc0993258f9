// What half a warp reads of a run of 128 values that it quantises (act8.cuh): a lane two times
// four, so that lanes beside each other read what lies beside each other.
#pragma once

#include "ops/quant/act8.cuh"

namespace cachalot::ops {

// Where the scale of row `row` of codes lies, whose rows are the columns of a product on the tensor
// cores (tile/mma.cuh, D): the four of two tiles of eight columns that a lane has values of are
// neighbours.
__device__ __forceinline__ int scale_place(int row) {
  return row / 16 * 16 + row % 8 / 2 * 4 + row / 8 % 2 * 2 + row % 2;
}

template <typename T>
struct RunValues;

template <>
struct RunValues<float> {
  tile::Vector16 four[2] = {};

  // Where in the run four `i` of a lane begins.
  static __device__ __forceinline__ int place(int i) {
    return i * 64 + static_cast<int>(threadIdx.x) % 16 * 4;
  }
  __device__ __forceinline__ void load(const float* run) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
      four[i] = tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(run + place(i)));
  }
  __device__ __forceinline__ tile::Vector16 bf16() const {
    tile::Vector16 v;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v.word[i] = tile::pack_bf16(__uint_as_float(four[i / 2].word[i % 2 * 2]),
                                  __uint_as_float(four[i / 2].word[i % 2 * 2 + 1]));
    }
    return v;
  }
};

template <>
struct RunValues<uint16_t> {
  tile::Vector16 eight = {};

  static __device__ __forceinline__ int place(int i) {
    return static_cast<int>(threadIdx.x) % 16 * 8 + i * 4;
  }
  __device__ __forceinline__ void load(const uint16_t* run) {
    eight = tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(run + place(0)));
  }
  __device__ __forceinline__ tile::Vector16 bf16() const { return eight; }
};

}  // namespace cachalot::ops
