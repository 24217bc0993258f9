// ACT8 with runs of 128 in registers: half a warp has a run, a lane eight values; or a warp, a lane
// four.
// Source  reference/forward 0.4; ops/quant/act_quant.h on the CPU.
#pragma once

#include "tile/convert.cuh"
#include "tile/copy.cuh"

namespace cachalot::ops {

struct Act8 {
  uint32_t codes[2];  // of e4m3
  float scale;        // of the run
};

// Eight values of a row of bf16, or of floats that hold values of bf16, on their way.
template <typename T>
struct EightValues {
  tile::Vector16 words[sizeof(T) / 2];

  __device__ __forceinline__ void load(const T* from) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(T) / 2); ++i)
      words[i] = tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(from) + i);
  }
  __device__ __forceinline__ tile::Vector16 bf16() const {
    if constexpr (sizeof(T) == 2) {
      return words[0];
    } else {
      tile::Vector16 v;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t* const pair = words[i / 2].word + i % 2 * 2;
        v.word[i] = tile::pack_bf16(__uint_as_float(pair[0]), __uint_as_float(pair[1]));
      }
      return v;
    }
  }
};

// By whole warps; v: the lane's values in bf16.
__device__ __forceinline__ Act8 quantise_act8(const tile::Vector16& v) {
  uint32_t max = tile::max_bf16(tile::magnitude_bf16(v.word[0]), tile::magnitude_bf16(v.word[1]));
  max = tile::max_bf16(
      max, tile::max_bf16(tile::magnitude_bf16(v.word[2]), tile::magnitude_bf16(v.word[3])));
#pragma unroll
  for (int distance = 8; distance >= 1; distance /= 2) {
    max = tile::max_bf16(max, __shfl_xor_sync(0xFFFFFFFFu, max, distance));
  }
  const float run_max = fmaxf(tile::low_bf16(max), tile::high_bf16(max));
  const tile::Pow2Scale s = tile::pow2_ceil(fmaxf(run_max, 1e-4f) * (1.0f / 448));
  Act8 q;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    q.codes[i] = tile::pack_e4m3(tile::low_bf16(v.word[2 * i]) * s.inverse,
                                 tile::high_bf16(v.word[2 * i]) * s.inverse,
                                 tile::low_bf16(v.word[2 * i + 1]) * s.inverse,
                                 tile::high_bf16(v.word[2 * i + 1]) * s.inverse);
  }
  q.scale = s.scale;
  return q;
}

// Four values of such a row.
template <typename T>
struct FourValues;
template <>
struct FourValues<uint16_t> {
  tile::Vector8 words;

  __device__ __forceinline__ void load(const uint16_t* from) {
    words = tile::load_shared_state(reinterpret_cast<const tile::Vector8*>(from));
  }
  __device__ __forceinline__ float at(int i) const {
    return i % 2 == 0 ? tile::low_bf16(words.word[i / 2]) : tile::high_bf16(words.word[i / 2]);
  }
  __device__ __forceinline__ tile::Vector8 bf16() const { return words; }
};
template <>
struct FourValues<float> {
  tile::Vector16 words;

  __device__ __forceinline__ void load(const float* from) {
    words = tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(from));
  }
  __device__ __forceinline__ float at(int i) const { return __uint_as_float(words.word[i]); }
  __device__ __forceinline__ tile::Vector8 bf16() const {
    return {{tile::pack_bf16(at(0), at(1)), tile::pack_bf16(at(2), at(3))}};
  }
};

struct Act8Four {
  uint32_t codes;
  float scale;
};

// By whole warps.
template <typename T>
__device__ __forceinline__ Act8Four quantise_act8(const FourValues<T>& v) {
  float max = 1e-4f;
#pragma unroll
  for (int i = 0; i < 4; ++i) max = fmaxf(max, fabsf(v.at(i)));
  // A float above 0 is in the order of its bits.
  max = __uint_as_float(__reduce_max_sync(0xFFFFFFFFu, __float_as_uint(max)));
  const tile::Pow2Scale s = tile::pow2_ceil(max * (1.0f / 448));
  return {tile::pack_e4m3(v.at(0) * s.inverse, v.at(1) * s.inverse, v.at(2) * s.inverse,
                          v.at(3) * s.inverse),
          s.scale};
}

}  // namespace cachalot::ops
