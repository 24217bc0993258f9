// Heads' norm, rotation, transform and snap (ops/rope/head_rows.h) on the GPU where they are many:
// eight lanes a head, each with 16 bytes of every run of eight lanes.
#pragma once

#include "ops/rope/bf16_head.cuh"
#include "ops/rope/head_rows.cuh"

namespace cachalot::ops::heads {

inline constexpr int kFewLanes = 8;     // of a head
inline constexpr int kRotatedDim = 64;  // of both kinds

// --- 512 values in bf16, in and out: the norm in steps of bf16, then the rotation.

inline constexpr int kBf16Dim = 512;
inline bool are_many_bf16_heads(const HeadRowsParams& p) {
  const auto lies =
      reinterpret_cast<uintptr_t>(p.from_bf16) | reinterpret_cast<uintptr_t>(p.to_bf16) |
      reinterpret_cast<uintptr_t>(p.table.cos) | reinterpret_cast<uintptr_t>(p.table.sin);
  return p.from_bf16 != nullptr && p.to_bf16 != nullptr && lies % 16 == 0 && p.round &&
         p.head_dim == kBf16Dim && p.rope_dim == kRotatedDim && p.norm == HeadNorm::bf16_steps &&
         !p.hadamard && p.snap == HeadSnap::none;
}

// Where lanes exchange their squares for those of two chains each: half a head at a time.
inline constexpr int kSquares = kBf16Dim / 2 / 2 + 8;  // words of a head; heads begin 8 banks apart
template <int kThreads>
using Squares = uint32_t[kThreads / kFewLanes][kSquares];

// Head `own` of `heads`; one past the last is nobody's. By whole warps.
template <int kThreads>
__device__ __forceinline__ void many_bf16_heads(const HeadRowsParams& p, uint32_t own,
                                                Squares<kThreads>& squares) {
  constexpr int kUnits = kBf16Dim / 8 / kFewLanes;  // of a lane
  const int lane = threadIdx.x % kFewLanes;
  const auto heads = static_cast<uint32_t>(p.rows * p.heads);
  const uint32_t at = min(own, heads - 1);
  const int64_t first = static_cast<int64_t>(at) * kBf16Dim + lane * 8;
  uint4 x[kUnits];
#pragma unroll
  for (int j = 0; j < kUnits; ++j)
    x[j] = *reinterpret_cast<const uint4*>(p.from_bf16 + first + j * 8 * kFewLanes);
  const int64_t rotation =
      static_cast<int64_t>(at / static_cast<uint32_t>(p.heads)) * (kRotatedDim / 2) + lane * 4;
  const float4 cos = *reinterpret_cast<const float4*>(p.table.cos + rotation);
  const float4 sin = *reinterpret_cast<const float4*>(p.table.sin + rotation);

  uint32_t* const own_squares = squares[threadIdx.x / kFewLanes];
  Chains<kFewLanes> chains;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (half == 1) __syncwarp();
#pragma unroll
    for (int j = 0; j < kUnits / 2; ++j) {
      const uint4 v = x[half * (kUnits / 2) + j];
      *reinterpret_cast<uint4*>(own_squares + j * 4 * kFewLanes + lane * 4) =
          make_uint4(tile::multiply_bf16(v.x, v.x), tile::multiply_bf16(v.y, v.y),
                     tile::multiply_bf16(v.z, v.z), tile::multiply_bf16(v.w, v.w));
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kBf16Dim / 2 / 16; ++i) chains.add(0, own_squares[i * 8 + lane]);
  }
  const uint32_t factors = chains.factors(kBf16Dim, p.eps);

#pragma unroll
  for (int j = 0; j < kUnits; ++j) {
    uint4 v =
        make_uint4(tile::multiply_bf16(x[j].x, factors), tile::multiply_bf16(x[j].y, factors),
                   tile::multiply_bf16(x[j].z, factors), tile::multiply_bf16(x[j].w, factors));
    if (j == kUnits - 1) {
      v = make_uint4(rotated_pair(v.x, cos.x, sin.x), rotated_pair(v.y, cos.y, sin.y),
                     rotated_pair(v.z, cos.z, sin.z), rotated_pair(v.w, cos.w, sin.w));
    }
    if (own < heads) *reinterpret_cast<uint4*>(p.to_bf16 + first + j * 8 * kFewLanes) = v;
  }
}

// --- 128 values, in f32 or in bf16 in and out: the rotation, the transform, whose results are
// rounded to bf16, and the snap to e2m1.

inline constexpr int kIndexDim = 128;
inline bool are_many_index_heads(const HeadRowsParams& p) {
  const bool in_bf16 = p.from_bf16 != nullptr;
  const auto lies =
      (in_bf16 ? reinterpret_cast<uintptr_t>(p.from_bf16) | reinterpret_cast<uintptr_t>(p.to_bf16)
               : reinterpret_cast<uintptr_t>(p.x)) |
      reinterpret_cast<uintptr_t>(p.table.cos) | reinterpret_cast<uintptr_t>(p.table.sin);
  return (p.to_bf16 != nullptr) == in_bf16 && lies % 16 == 0 &&
         (in_bf16 || p.row_stride % 4 == 0) && p.round && p.head_dim == kIndexDim &&
         p.rope_dim == kRotatedDim && p.norm == HeadNorm::none && p.hadamard &&
         p.snap == HeadSnap::fp4;
}

// Two values in bf16 to e2m1 with the scale, twice. A sum with a power of two that is so much
// larger than the value has the distance of its codes between neighbours.
__device__ __forceinline__ uint32_t snap_bf16_to_e2m1(uint32_t pair, uint32_t inverse,
                                                      uint32_t scale) {
  constexpr uint32_t kSigns = 0x80008000u, kExponents = 0x7F807F80u, kOnes = 0x3F803F80u;
  constexpr uint32_t kSixMore = 0x03400340u;  // binades; and half a one, for negative values
  const uint32_t x = tile::multiply_bf16(pair, inverse);
  const uint32_t large = __vmaxu2(x & kExponents, kOnes) + kSixMore;
  const uint32_t code = tile::subtract_bf16(tile::add_bf16(x, large), large);
  return tile::multiply_bf16(code | (x & kSigns), scale);
}

template <bool kInBf16>
__device__ __forceinline__ void many_index_heads(const HeadRowsParams& p, float factor,
                                                 uint32_t own) {
  constexpr int kRuns = kIndexDim / 32;
  const int lane = threadIdx.x % kFewLanes;
  const auto heads = static_cast<uint32_t>(p.rows * p.heads);
  const uint32_t at = min(own, heads - 1);
  const uint32_t row = at / static_cast<uint32_t>(p.heads);
  const int64_t offset =
      kInBf16 ? static_cast<int64_t>(at) * kIndexDim + lane * 4
              : row * p.row_stride +
                    static_cast<int64_t>(at - row * static_cast<uint32_t>(p.heads)) * kIndexDim +
                    lane * 4;
  float v[kRuns][4];  // values 32 run + 4 lane + ...
#pragma unroll
  for (int run = 0; run < kRuns; ++run) {
    if constexpr (kInBf16) {
      const uint2 four = *reinterpret_cast<const uint2*>(p.from_bf16 + offset + run * 32);
      v[run][0] = tile::low_bf16(four.x), v[run][1] = tile::high_bf16(four.x);
      v[run][2] = tile::low_bf16(four.y), v[run][3] = tile::high_bf16(four.y);
    } else {
      const float4 four = *reinterpret_cast<const float4*>(p.x + offset + run * 32);
      v[run][0] = four.x, v[run][1] = four.y, v[run][2] = four.z, v[run][3] = four.w;
    }
  }

  constexpr int kFirstRotated = (kIndexDim - kRotatedDim) / 32;
#pragma unroll
  for (int run = kFirstRotated; run < kRuns; ++run) {
    const int64_t rotation =
        static_cast<int64_t>(row) * (kRotatedDim / 2) + (run - kFirstRotated) * 16 + lane * 2;
    const float2 cos = *reinterpret_cast<const float2*>(p.table.cos + rotation);
    const float2 sin = *reinterpret_cast<const float2*>(p.table.sin + rotation);
    const auto rotate = [](float& u, float& w, float c, float s) {
      const uint32_t pair = tile::pack_bf16(fmaf(u, c, -(w * s)), fmaf(u, s, w * c));
      u = tile::low_bf16(pair);
      w = tile::high_bf16(pair);
    };
    rotate(v[run][0], v[run][1], cos.x, sin.x);
    rotate(v[run][2], v[run][3], cos.y, sin.y);
  }

  // The transform: strides 1 and 2, those between lanes, and those between runs.
  const auto butterfly = [](float& u, float& w) {
    const float first = u, second = w;
    u = first + second;
    w = first - second;
  };
#pragma unroll
  for (auto& four : v) {
    butterfly(four[0], four[1]);
    butterfly(four[2], four[3]);
    butterfly(four[0], four[2]);
    butterfly(four[1], four[3]);
  }
#pragma unroll
  for (int distance = 1; distance < kFewLanes; distance *= 2) {
    const float sign = (lane & distance) == 0 ? 1.0f : -1.0f;
#pragma unroll
    for (auto& four : v) {
#pragma unroll
      for (float& each : four) each = fmaf(each, sign, __shfl_xor_sync(kAllLanes, each, distance));
    }
  }
#pragma unroll
  for (int stride = 1; stride < kRuns; stride *= 2) {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      if ((run & stride) != 0) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) butterfly(v[run][i], v[run + stride][i]);
    }
  }

  uint32_t pairs[kRuns][2];
#pragma unroll
  for (int run = 0; run < kRuns; ++run) {
    pairs[run][0] = tile::pack_bf16(v[run][0] * factor, v[run][1] * factor);
    pairs[run][1] = tile::pack_bf16(v[run][2] * factor, v[run][3] * factor);
  }
#pragma unroll
  for (int two = 0; two < kRuns; two += 2) {  // runs, whose largest values are in one word
    const auto larger = [&](int run) {
      return tile::max_bf16(tile::magnitude_bf16(pairs[run][0]),
                            tile::magnitude_bf16(pairs[run][1]));
    };
    const uint32_t first = larger(two), second = larger(two + 1);
    uint32_t largest =
        tile::max_bf16(__byte_perm(first, second, 0x5410), __byte_perm(first, second, 0x7632));
#pragma unroll
    for (int distance = 1; distance < kFewLanes; distance *= 2)
      largest = tile::max_bf16(largest, __shfl_xor_sync(kAllLanes, largest, distance));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float magnitude = i == 0 ? tile::low_bf16(largest) : tile::high_bf16(largest);
      const Scale scale = power_of_two(fp4_exponent(magnitude));
      const uint32_t scales = __byte_perm(__float_as_uint(scale.scale), 0, 0x3232);
      const uint32_t inverses = __byte_perm(__float_as_uint(scale.inverse), 0, 0x3232);
      const uint32_t low = snap_bf16_to_e2m1(pairs[two + i][0], inverses, scales);
      const uint32_t high = snap_bf16_to_e2m1(pairs[two + i][1], inverses, scales);
      if (own < heads) {
        if constexpr (kInBf16) {
          *reinterpret_cast<uint2*>(p.to_bf16 + offset + (two + i) * 32) = make_uint2(low, high);
        } else {
          *reinterpret_cast<float4*>(p.x + offset + (two + i) * 32) =
              make_float4(tile::low_bf16(low), tile::high_bf16(low), tile::low_bf16(high),
                          tile::high_bf16(high));
        }
      }
    }
  }
}

}  // namespace cachalot::ops::heads
