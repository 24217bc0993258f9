// What products on the bf16 tensor cores share whose warps have an eighth of an output's inputs
// each: x in the tensor core's order, and the fold of the eight sums.
#pragma once

#include <cstdint>

#include "device/cuda/launch.cuh"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/mma.cuh"
#include "tile/order.cuh"

namespace cachalot::ops::bf16_tiles {

inline constexpr int kWarps = 8;  // and runs of an output's sum
inline constexpr int kThreads = kWarps * 32;

struct Outputs {
  float* y;
  int64_t y_stride;
  int rows;
  bool round_y;
};

// Four values of x as the tensor core has them.
__device__ __forceinline__ uint2 pack_four(const tile::Vector16& v) {
  return make_uint2(
      tile::pack_bf16(tile::bits_to_float(v.word[0]), tile::bits_to_float(v.word[1])),
      tile::pack_bf16(tile::bits_to_float(v.word[2]), tile::bits_to_float(v.word[3])));
}
// The same of what lies in memory that a kernel before may have written.
__device__ __forceinline__ uint2 load_packed_four(const float* from) {
  return pack_four(tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(from)));
}
__device__ __forceinline__ uint2 load_packed_four(const uint16_t* from) {
  const tile::Vector8 v = tile::load_shared_state(reinterpret_cast<const tile::Vector8*>(from));
  return make_uint2(v.word[0], v.word[1]);
}

// The eight runs' sums of some outputs, [run][token][row]. Neighbouring tokens' rows lie in other
// banks.
template <int kUnits>
constexpr int kTokenStride = kUnits * 16 + 4;

template <int kUnits>
__device__ __forceinline__ void store_run(float* sums, int tokens, int unit, int token_tile,
                                          const float (&d)[4]) {
  const int lane = threadIdx.x % 32;
  float* const own = sums + static_cast<int>(threadIdx.x) / 32 * tokens * kTokenStride<kUnits>;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int token = token_tile * 8 + lane % 4 * 2 + i % 2;
    own[token * kTokenStride<kUnits> + unit * 16 + lane / 4 + i / 2 * 8] = d[i];
  }
}

// By all threads, after a barrier: the outputs of `present` of the tokens.
template <int kUnits>
__device__ __forceinline__ void fold_runs(const Outputs& out, const float* sums, int tokens,
                                          int first_unit, int64_t first_token, int present) {
  constexpr int kRows = kUnits * 16;
  for (int i = threadIdx.x; i < present * kRows; i += kThreads) {
    const int row = i % kRows, token = i / kRows;
    const float* from = sums + token * kTokenStride<kUnits> + row;
    float sum = from[0];
#pragma unroll
    for (int run = 1; run < kWarps; ++run) sum += from[run * tokens * kTokenStride<kUnits>];
    const int n = first_unit * 16 + row;
    if (n >= out.rows) continue;
    out.y[(first_token + token) * out.y_stride + n] = out.round_y ? tile::round_to_bf16(sum) : sum;
  }
}

// x as the tensor core has it, [tile of 8 tokens][step of 16 inputs][lane]; tokens past the last
// are zeros. T: float, or uint16_t for bf16.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    prepare_kernel(const T* x, int64_t x_stride, int m, int steps, uint2* to) {
  tile::launch_dependents();
  tile::wait_for_producers();
  const int lane = threadIdx.x % 32;
  const int token = static_cast<int>(blockIdx.y) * 8 + lane / 4;
  const int step = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (step >= steps) return;
  uint2 b = make_uint2(0, 0);
  if (token < m) b = load_packed_four(x + token * x_stride + step * 16 + lane % 4 * 4);
  to[(int64_t{blockIdx.y} * steps + step) * 32 + lane] = b;
}

inline int64_t prepared_bytes(int64_t m, int64_t columns) { return (m + 7) / 8 * columns * 16; }

template <typename T>
void prepare(const device::cuda::Stream& stream, const T* x, int64_t x_stride, int m, int steps,
             uint2* to) {
  device::cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((steps + kWarps - 1) / kWarps),
                    static_cast<unsigned>((m + 7) / 8));
  shape.block = kThreads;
  device::cuda::launch(stream, shape, prepare_kernel<T>, x, x_stride, m, steps, to);
}

}  // namespace cachalot::ops::bf16_tiles
