// ACT8 with runs of 128 in registers: half a warp has a run, a lane eight values.
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

}  // namespace cachalot::ops
