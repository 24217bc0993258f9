#include <algorithm>
#include <string>

#include "device/cuda/launch.cuh"
#include "ops/elementwise/exp.cuh"
#include "ops/hyper/hyper_boundary_cuda.h"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/order.cuh"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int kStreams = 4;
constexpr int kMixes = 2 * kStreams + kStreams * kStreams;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kRowsPerWarp = kMixes / kWarps;
constexpr int kSlice = 32;  // channels of a block, one a lane
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

__device__ __forceinline__ float sum_lanes(float x) {
#pragma unroll
  for (int distance = 16; distance >= 1; distance /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, distance);
  }
  return x;
}

__device__ __forceinline__ float load_bf16(const uint16_t* from) {
  return tile::low_bf16(tile::load_shared_state(from));
}

// The sublayer's output at a channel.
__device__ __forceinline__ float output_of(const HyperBoundaryParams& p, int token, int channel) {
  if (p.slots == nullptr) return load_bf16(p.y + token * p.d + channel);
  float sum = 0;
  for (int i = 0; i < p.k; ++i) {
    const int row = tile::load_shared_state(p.slots + token * p.k + i);
    if (row >= 0) sum += load_bf16(p.y + row * p.d + channel);
  }
  if (p.shared != nullptr) sum += load_bf16(p.shared + token * p.d + channel);
  return tile::round_to_bf16(sum);
}

__device__ __forceinline__ float sigmoid(float z) {
  return 1.0f / (1.0f + exp_f32_device(0.0f - z));
}

// The sum of the four lanes of a row or column, in order; lanes 0 .. 15 are rows of four.
__device__ __forceinline__ float line_sum(float x, int first, int step) {
  float sum = __shfl_sync(kAllLanes, x, first);
#pragma unroll
  for (int i = 1; i < kStreams; ++i) sum += __shfl_sync(kAllLanes, x, first + i * step);
  return sum;
}

// Of the calling lane, from the mixes and the sum of squares.
__device__ __forceinline__ float logit_of(const HyperBoundaryParams& p, const float* mixes) {
  const int lane = threadIdx.x % 32;
  if (lane >= kMixes) return 0.0f;
  const int part = lane < kStreams ? 0 : lane < 2 * kStreams ? 1 : 2;
  const float mean = mixes[kMixes] / static_cast<float>(kStreams * p.d);
  const float inv_rms = 1.0f / sqrtf(mean + p.rms_norm_eps);
  return mixes[lane] * inv_rms * __ldg(p.scale + part) + __ldg(p.base + lane);
}

// By one warp.
__device__ __forceinline__ void make_pre_and_post(const HyperBoundaryParams& p, int token,
                                                  float logit, float* pre) {
  const int lane = threadIdx.x % 32;
  const float s = sigmoid(logit);
  if (lane < kStreams) {
    pre[lane] = s + p.hc_eps;
  } else if (lane < 2 * kStreams) {
    p.post[token * kStreams + lane - kStreams] = 2.0f * s;
  }
}

// By one warp.
__device__ __forceinline__ void make_comb(const HyperBoundaryParams& p, int token, float logit) {
  const int lane = threadIdx.x % 32;
  float c = __shfl_sync(kAllLanes, logit, (2 * kStreams + lane) % 32);  // lanes 16 on: not used
  const int row = lane % 16 / kStreams * kStreams;
  const int column = lane % kStreams;
  float largest = __shfl_sync(kAllLanes, c, row);
#pragma unroll
  for (int k = 1; k < kStreams; ++k) {
    const float other = __shfl_sync(kAllLanes, c, row + k);
    largest = other > largest ? other : largest;
  }
  c = exp_f32_device(c - largest);
  c = c / line_sum(c, row, 1) + p.hc_eps;
  c = c / (line_sum(c, column, kStreams) + p.hc_eps);
  for (int pass = 1; pass < p.sinkhorn_iters; ++pass) {
    c = c / (line_sum(c, row, 1) + p.hc_eps);
    c = c / (line_sum(c, column, kStreams) + p.hc_eps);
  }
  if (lane < 16) p.comb[token * 16 + lane] = c;
}

// The rest of a token, by the block whose slice was the last to be ready. kVectors: of eight
// channels, a thread. kAlone: a warp more makes comb, which out does not need.
template <int kVectors, bool kAlone>
__device__ __forceinline__ void finish_token(const HyperBoundaryParams& p, int token) {
  __shared__ float mixes[kMixes + 1];
  __shared__ float pre[kStreams];
  __shared__ float warp_squares[kWarps];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int d = static_cast<int>(p.d);
  const int slices = d / kSlice;
  if (kAlone && warp == kWarps) {
    __syncthreads();
    make_comb(p, token, logit_of(p, mixes));
    __syncthreads();
    return;
  }

  // Streams and norm, while the mixes are folded.
  tile::Vector16 x[kVectors][kStreams];
  tile::Vector16 g[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int at = (v * kThreads + static_cast<int>(threadIdx.x)) * 8;
    if (at >= d) continue;
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      x[v][j] = tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(
          p.streams + (static_cast<int64_t>(token) * kStreams + j) * d + at));
    }
    g[v] = tile::load_once(reinterpret_cast<const tile::Vector16*>(p.norm + at));
  }
  constexpr int kRows = kMixes / kWarps + 1;
  constexpr int kLoads = kVectors * 2;  // of the slices of a row, a lane
  float partial[kRows][kLoads];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int row = min(warp + r * kWarps, kMixes);
    const float* from = p.partial + (static_cast<int64_t>(token) * (kMixes + 1) + row) * slices;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int slice = lane + 32 * i;
      partial[r][i] = slice < slices ? tile::load_shared_state(from + slice) : 0.0f;
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    float sum = partial[r][0];
#pragma unroll
    for (int i = 1; i < kLoads; ++i) sum += partial[r][i];
    sum = sum_lanes(sum);
    if (lane == 0 && warp + r * kWarps <= kMixes) mixes[warp + r * kWarps] = sum;
  }
  __syncthreads();
  if (warp == 0) {
    const float logit = logit_of(p, mixes);
    make_pre_and_post(p, token, logit, pre);
    if (!kAlone) make_comb(p, token, logit);
  }
  tile::sync_threads<1, kThreads>();

  // u and its norm.
  float u[kVectors][8];
  float squares = 0;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int at = (v * kThreads + static_cast<int>(threadIdx.x)) * 8;
    if (at >= d) continue;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const auto value = [&](int j) {
        const uint32_t pair = x[v][j].word[i / 2];
        return i % 2 == 0 ? tile::low_bf16(pair) : tile::high_bf16(pair);
      };
      float sum = pre[0] * value(0);
#pragma unroll
      for (int j = 1; j < kStreams; ++j) sum = fmaf(pre[j], value(j), sum);
      u[v][i] = tile::round_to_bf16(sum);
      squares = fmaf(u[v][i], u[v][i], squares);
    }
  }
  squares = sum_lanes(squares);
  if (lane == 0) warp_squares[warp] = squares;
  tile::sync_threads<1, kThreads>();
  float total = warp_squares[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) total += warp_squares[w];
  const float factor = 1.0f / sqrtf(total / static_cast<float>(d) + p.rms_norm_eps);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int at = (v * kThreads + static_cast<int>(threadIdx.x)) * 8;
    if (at >= d) continue;
    tile::Vector16 out;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      out.word[i] = tile::pack_bf16(tile::low_bf16(g[v].word[i]) * (u[v][2 * i] * factor),
                                    tile::high_bf16(g[v].word[i]) * (u[v][2 * i + 1] * factor));
    }
    *reinterpret_cast<tile::Vector16*>(p.out + static_cast<int64_t>(token) * d + at) = out;
  }
  __syncthreads();  // the shared values are free for the next token
}

// A block: 32 channels of all four streams, of every gridDim.y-th token.
// kAlone: of one token, for which the time of a block counts, not the room that it takes.
template <int kVectors, bool kAlone>
__global__ void __launch_bounds__(kThreads + (kAlone ? 32 : 0), kVectors <= 2 && !kAlone ? 2 : 1)
    hyper_boundary_kernel(const __grid_constant__ HyperBoundaryParams p) {
  __shared__ bool last;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int d = static_cast<int>(p.d);
  const int channel = static_cast<int>(blockIdx.x) * kSlice + lane;
  tile::launch_dependents();
  // The mapping's weights do not depend on the kernel before.
  float fn[kRowsPerWarp][kStreams];
#pragma unroll
  for (int r = 0; r < kRowsPerWarp; ++r) {
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      const int row = min(warp * kRowsPerWarp + r, kMixes - 1);  // the last warp's: not used
      fn[r][j] = __ldg(p.fn + row * kStreams * d + j * d + channel);
    }
  }
  tile::wait_for_producers();
  for (int token = blockIdx.y; token < p.tokens; token += static_cast<int>(gridDim.y)) {
    // X'.
    uint16_t* const streams = p.streams + static_cast<int64_t>(token) * kStreams * d + channel;
    float x[kStreams];
#pragma unroll
    for (int j = 0; j < kStreams; ++j) x[j] = load_bf16(streams + j * d);
    if (p.y != nullptr) {
      tile::Vector16 post = tile::load_shared_state(
          reinterpret_cast<const tile::Vector16*>(p.post + token * kStreams));
      tile::Vector16 comb[kStreams];
#pragma unroll
      for (int j = 0; j < kStreams; ++j) {
        comb[j] = tile::load_shared_state(
            reinterpret_cast<const tile::Vector16*>(p.comb + token * 16 + j * 4));
      }
      const float y = output_of(p, token, channel);
      float next[kStreams];
#pragma unroll
      for (int k = 0; k < kStreams; ++k) {
        float value = tile::bits_to_float(post.word[k]) * y;
#pragma unroll
        for (int j = 0; j < kStreams; ++j) {
          value = fmaf(tile::bits_to_float(comb[j].word[k]), x[j], value);
        }
        next[k] = tile::round_to_bf16(value);
      }
      __syncthreads();  // every warp has read the old streams
#pragma unroll
      for (int k = 0; k < kStreams; ++k) {
        x[k] = next[k];
        if (warp == k) streams[k * d] = tile::bf16_bits(next[k]);
      }
    }
    // This slice's part of the mixes and of the sum of squares.
    float* const partial =
        p.partial + static_cast<int64_t>(token) * (kMixes + 1) * gridDim.x + blockIdx.x;
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      if (kAlone && warp == kWarps) break;
      float sum = fn[r][0] * x[0];
#pragma unroll
      for (int j = 1; j < kStreams; ++j) sum = fmaf(fn[r][j], x[j], sum);
      sum = sum_lanes(sum);
      if (lane == 0) partial[(warp * kRowsPerWarp + r) * static_cast<int>(gridDim.x)] = sum;
    }
    if (warp == 0) {
      float sum = x[0] * x[0];
#pragma unroll
      for (int j = 1; j < kStreams; ++j) sum = fmaf(x[j], x[j], sum);
      sum = sum_lanes(sum);
      if (lane == 0) partial[kMixes * static_cast<int>(gridDim.x)] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) last = tile::arrive_last(p.counters + token, gridDim.x);
    __syncthreads();
    if (last) finish_token<kVectors, kAlone>(p, token);
  }
}

template <int kVectors>
void launch_kernel(const cuda::Stream& stream, const HyperBoundaryParams& p) {
  cuda::LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(p.d / kSlice),
                    static_cast<unsigned>(std::min<int64_t>(p.tokens, 16)));
  const bool alone = p.tokens == 1;
  shape.block = kThreads + (alone ? 32 : 0);
  cuda::launch(
      stream, shape,
      alone ? hyper_boundary_kernel<kVectors, true> : hyper_boundary_kernel<kVectors, false>, p);
}

}  // namespace

Status check_hyper_boundary(const HyperBoundaryParams& p) {
  if (p.d < 256 || p.d > 8192 || p.d % 256 != 0) {
    return invalid_argument("mHC boundary: expected d as 256 n up to 8192, found " +
                            std::to_string(p.d));
  }
  if (p.tokens < 1 || p.tokens > 65535 || p.sinkhorn_iters < 1) {
    return invalid_argument("mHC boundary: expected tokens from 1 to 65535, found " +
                            std::to_string(p.tokens));
  }
  return {};
}

void launch_hyper_boundary(const cuda::Stream& stream, const HyperBoundaryParams& p) {
  if (p.d <= kThreads * 8) {
    launch_kernel<1>(stream, p);
  } else if (p.d <= kThreads * 16) {
    launch_kernel<2>(stream, p);
  } else {
    launch_kernel<4>(stream, p);
  }
}

}  // namespace cachalot::ops
