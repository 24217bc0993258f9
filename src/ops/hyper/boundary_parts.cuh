// What the mHC boundary's kernels of few rows and of many have in common (hyper_boundary_cuda.h).
#pragma once

#include <cstdint>

#include "ops/elementwise/exp.cuh"
#include "ops/hyper/hyper_boundary_cuda.h"
#include "ops/hyper/sinkhorn.cuh"
#include "tile/convert.cuh"
#include "tile/copy.cuh"
#include "tile/mma.cuh"

namespace cachalot::ops::boundary {

constexpr int kStreams = 4;
constexpr int kMixes = 2 * kStreams + kStreams * kStreams;
constexpr int kSumStride = 32;  // of a slice in memory: the mixes, the sum of squares, nothing more
constexpr int kSlice = 32;      // channels whose sums are added in one chain
constexpr int kProducts = kStreams * kSlice / 16;  // of a token in a slice: 16 channels of a stream
constexpr int kPlanes = 3;                         // of bf16 that a weight is the sum of
constexpr int kTokens = 8;                         // that a product takes at a time
constexpr int kRowWarps = 16;                      // that collapse a row
constexpr int kRowThreads = kRowWarps * 32;
constexpr int kRowChannels = kRowThreads * 4;  // that they take at a time
constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

struct Four {
  float x[4];
};

__device__ __forceinline__ Four floats(const tile::Vector16& v) {
  Four four;
#pragma unroll
  for (int i = 0; i < 4; ++i) four.x[i] = tile::bits_to_float(v.word[i]);
  return four;
}
// Of bf16.
__device__ __forceinline__ Four floats(const tile::Vector8& v) {
  Four four;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    four.x[2 * i] = tile::low_bf16(v.word[i]);
    four.x[2 * i + 1] = tile::high_bf16(v.word[i]);
  }
  return four;
}
__device__ __forceinline__ Four load_four(const float* from) {
  return floats(tile::load_shared_state(reinterpret_cast<const tile::Vector16*>(from)));
}
__device__ __forceinline__ Four load_four(const uint16_t* from) {
  return floats(tile::load_shared_state(reinterpret_cast<const tile::Vector8*>(from)));
}
__device__ __forceinline__ void store_four(float* to, const Four& v) {
  *reinterpret_cast<float4*>(to) = make_float4(v.x[0], v.x[1], v.x[2], v.x[3]);
}
// Of two pairs of bf16.
__device__ __forceinline__ void store_pairs(uint16_t* to, uint32_t low, uint32_t high) {
  *reinterpret_cast<uint2*>(to) = make_uint2(low, high);
}

// Whether a sublayer's output is to be mixed in.
__device__ __forceinline__ bool mixes_in(const HyperBoundaryParams& p) {
  return p.y != nullptr || p.y_bf16 != nullptr || p.sum.picks != nullptr;
}

// A pair of weights as three pairs of bf16 that add up to them.
__device__ __forceinline__ void split_pair(float first, float second, uint32_t (&planes)[3]) {
#pragma unroll
  for (uint32_t& plane : planes) {
    plane = tile::pack_bf16(first, second);
    first -= tile::low_bf16(plane);
    second -= tile::high_bf16(plane);
  }
}

__device__ __forceinline__ float sum_lanes(float x) {
#pragma unroll
  for (int distance = 16; distance >= 1; distance /= 2) {
    x += __shfl_xor_sync(kAllLanes, x, distance);
  }
  return x;
}

__device__ __forceinline__ float sigmoid(float z) {
  return 1.0f / (1.0f + exp_f32_device(0.0f - z));
}

// What a lane needs to make its mix a logit.
struct MixMap {
  float base = 0, scale = 0;
  __device__ __forceinline__ void load(const HyperBoundaryParams& p, bool head, int lane) {
    if (lane >= (head ? kStreams : kMixes)) return;
    base = __ldg(p.base + lane);
    scale = __ldg(p.scale + (lane < kStreams ? 0 : lane < 2 * kStreams ? 1 : 2));
  }
  // chains: of the slices, 16 of them. By a whole warp.
  __device__ __forceinline__ float logit(const float (&chains)[kRowWarps][kSumStride], int lane,
                                         int d, float eps) const {
    float mix = chains[0][lane];
#pragma unroll
    for (int w = 1; w < kRowWarps; ++w) mix += chains[w][lane];
    return logit_of(mix, d, eps);
  }
  // Of the lane's mix.
  __device__ __forceinline__ float logit_of(float mix, int d, float eps) const {
    const float mean = __shfl_sync(kAllLanes, mix, kMixes) / static_cast<float>(kStreams * d);
    return mix * (1.0f / sqrtf(mean + eps)) * scale + base;
  }
};

// By the warp that does not collapse the row.
__device__ __forceinline__ void leave_comb(const HyperBoundaryParams& p, int64_t token, float logit,
                                           int lane) {
  // The matrix's logits are the last 16 mixes.
  const float own = __shfl_sync(kAllLanes, logit, (lane + 2 * kStreams) % 32);
  if (p.logits == nullptr) {
    make_comb(own, p.sinkhorn_iters, p.hc_eps, p.comb + token * 16);
  } else if (lane < 16) {
    p.logits[token * 16 + lane] = own;
  }
}

// Four channels of u, and their squares added to a chain.
__device__ __forceinline__ Four collapse(const float (&pre)[kStreams],
                                         const tile::Vector8 (&streams)[kStreams], float& squares) {
  Four x[kStreams], u;
#pragma unroll
  for (int j = 0; j < kStreams; ++j) x[j] = floats(streams[j]);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float sum = pre[0] * x[0].x[i];
#pragma unroll
    for (int j = 1; j < kStreams; ++j) sum = fmaf(pre[j], x[j].x[i], sum);
    u.x[i] = tile::round_to_bf16(sum);
    squares = fmaf(u.x[i], u.x[i], squares);
  }
  return u;
}

// u's norm from the 16 warps' sums of its squares.
__device__ __forceinline__ float norm_factor(const float (&squares)[kRowWarps], int d, float eps) {
  float total = squares[0];
#pragma unroll
  for (int w = 1; w < kRowWarps; ++w) total += squares[w];
  return 1.0f / sqrtf(total / static_cast<float>(d) + eps);
}
__device__ __forceinline__ Four normed(const Four& g, const Four& u, float factor) {
  Four out;
#pragma unroll
  for (int i = 0; i < 4; ++i) out.x[i] = tile::round_to_bf16(g.x[i] * (u.x[i] * factor));
  return out;
}
// The same to where out lies; at: the place of the first in out.
__device__ __forceinline__ void store_normed(const HyperBoundaryParams& p, int64_t at,
                                             const Four& g, const Four& u, float factor) {
  const Four out = normed(g, u, factor);
  if (p.out_bf16 != nullptr) {
    store_pairs(p.out_bf16 + at, tile::pack_bf16(out.x[0], out.x[1]),
                tile::pack_bf16(out.x[2], out.x[3]));
  } else {
    store_four(p.out + at, out);
  }
}

// Four of the norm's weights.
__device__ __forceinline__ Four norm_weights(const float* from) {
  return floats(tile::load_constant(reinterpret_cast<const tile::Vector16*>(from)));
}

// A slice's sums of 16 tokens, of kEights times eight mixes: added to nothing, in the order of the
// products. Tokens: has a lane's values of a token, pair[kProducts][2], in bf16.
template <int kEights, typename Tokens>
__device__ __forceinline__ void multiply_slice(
    const tile::Vector16 (&weights)[kProducts / 2][kEights][kPlanes][32], const Tokens (&tokens)[2],
    float (&total)[kEights][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int two = 0; two < kProducts / 2; ++two) {
    float sums[2][kEights][4] = {};
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
      for (int eight = 0; eight < kEights; ++eight) {
        const tile::Vector16 b = weights[two][eight][plane][lane];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint32_t(&low)[2] = tokens[0].pair[two * 2 + i];
          const uint32_t(&high)[2] = tokens[1].pair[two * 2 + i];
          tile::mma_bf16(sums[i][eight], low[0], high[0], low[1], high[1], b.word[2 * i],
                         b.word[2 * i + 1]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int eight = 0; eight < kEights; ++eight) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float& sum = total[eight][j];
          sum = two + i == 0 ? sums[i][eight][j] : sum + sums[i][eight][j];
        }
      }
    }
  }
}

}  // namespace cachalot::ops::boundary
