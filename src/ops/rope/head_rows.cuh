// A head's norm, rotation, transform and snap (ops/rope/head_rows.h) in half a warp on the GPU.
#pragma once

#include <cmath>
#include <cstdint>

#include "ops/norm/rms_norm.cuh"
#include "ops/quant/act_quant.cuh"
#include "ops/rope/head_rows.h"
#include "tile/order.cuh"
#include "tile/scalar.cuh"

namespace cachalot::ops::heads {

inline constexpr int kLanes = 16;  // of a head
inline constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// A product with the inverse of a power of two has the quotient's bits.
struct Scale {
  float scale;
  float inverse;
};
__device__ __forceinline__ Scale power_of_two(int exponent) {
  return {scale_of(exponent), exponent == 127 ? 0x1p-127f : __int_as_float((127 - exponent) << 23)};
}

// A head in half a warp: lane c has values c, c + 16, c + 32, ...
template <int kValues>
struct Head {
  static constexpr int kRotated = kValues < 4 ? kValues : 4;  // values of a lane, at most
  float v[kValues];
  float cos[kRotated], sin[kRotated];
  int first_rotated;

  // What does not depend on each other is under way at once. own: of the heads.
  __device__ __forceinline__ void load(const HeadRowsParams& p, int64_t own, int lane) {
    const int64_t row = own / p.heads;
    if (p.from_bf16 != nullptr) {
      load_pairs(p.from_bf16 + own * p.head_dim, lane);
    } else {
      const float* const x = p.x + row * p.row_stride + own % p.heads * p.head_dim + lane;
#pragma unroll
      for (int i = 0; i < kValues; ++i) v[i] = x[i * kLanes];
    }
    const int rotated = static_cast<int>(p.rope_dim) / kLanes;
    first_rotated = kValues - rotated;
#pragma unroll
    for (int i = 0; i < kRotated; ++i) {
      const int64_t at = row * (p.rope_dim / 2) + min(i, rotated - 1) * (kLanes / 2) + lane / 2;
      cos[i] = p.table.cos[at];
      sin[i] = p.table.sin[at];
    }
  }

  template <Norm kNorm>
  __device__ __forceinline__ void norm(const HeadRowsParams& p, int lane) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kValues; ++i) sum = add_square<kNorm>(sum, v[i]);
    sum = __shfl_sync(kAllLanes, fold_chains(sum), 0, kLanes);
    const float factor = norm_factor<kNorm>(sum, kValues * kLanes, p.eps);
    const float* const g = p.g == nullptr ? nullptr : p.g + lane;
#pragma unroll
    for (int i = 0; i < kValues; ++i)
      v[i] = weigh<kNorm>(v[i] * factor, g == nullptr ? g : g + i * kLanes, p.round);
  }

  __device__ __forceinline__ void rotate(bool round, int lane) {
#pragma unroll
    for (int i = kValues - kRotated; i < kValues; ++i) {
      if (i < first_rotated) continue;
      const int at = i - first_rotated;
      float c = cos[0], s = sin[0];
#pragma unroll
      for (int k = 1; k < kRotated; ++k) {
        if (at == k) c = cos[k], s = sin[k];
      }
      const float other = __shfl_xor_sync(kAllLanes, v[i], 1);
      const float rotated = lane % 2 == 0 ? fmaf(v[i], c, -(other * s)) : fmaf(other, s, v[i] * c);
      v[i] = round ? tile::round_to_bf16(rotated) : rotated;
    }
  }

  __device__ __forceinline__ void hadamard(float factor, bool round, int lane) {
#pragma unroll
    for (int stride = 1; stride < kLanes; stride *= 2) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        const float other = __shfl_xor_sync(kAllLanes, v[i], stride);
        v[i] = (lane & stride) == 0 ? v[i] + other : other - v[i];
      }
    }
#pragma unroll
    for (int stride = 1; stride < kValues; stride *= 2) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        if ((i & stride) != 0) continue;
        const float first = v[i], second = v[i + stride];
        v[i] = first + second;
        v[i + stride] = first - second;
      }
    }
#pragma unroll
    for (float& each : v) each = round ? tile::round_to_bf16(each * factor) : each * factor;
  }

  // The other way round than `store`.
  __device__ __forceinline__ void load_pairs(const uint16_t* from, int lane) {
    const bool odd = lane % 2 != 0;
    uint32_t pairs[kValues / 2];
#pragma unroll
    for (int i = 0; i < kValues; i += 2) {
      pairs[i / 2] =
          *reinterpret_cast<const uint32_t*>(from + (i + lane % 2) * kLanes + lane / 2 * 2);
    }
#pragma unroll
    for (int i = 0; i < kValues; i += 2) {
      const float low = tile::low_bf16(pairs[i / 2]), high = tile::high_bf16(pairs[i / 2]);
      const float other = __shfl_xor_sync(kAllLanes, odd ? low : high, 1);
      v[i] = odd ? other : low;
      v[i + 1] = odd ? high : other;
    }
  }
  // In bf16, which holds the values. Two lanes exchange some, so that each writes pairs.
  __device__ __forceinline__ void store(uint16_t* to, int lane, bool is_there) const {
    const bool odd = lane % 2 != 0;
#pragma unroll
    for (int i = 0; i < kValues; i += 2) {
      const float own = odd ? v[i + 1] : v[i];
      const float other = __shfl_xor_sync(kAllLanes, odd ? v[i] : v[i + 1], 1);
      const uint32_t pair = odd ? tile::pack_bf16(other, own) : tile::pack_bf16(own, other);
      if (is_there)
        *reinterpret_cast<uint32_t*>(to + (i + lane % 2) * kLanes + lane / 2 * 2) = pair;
    }
  }

  // The exponent of run `run`'s scale, of kRun values a lane.
  template <int kRun>
  __device__ __forceinline__ float run_max(int run) const {
    float largest = 0;
#pragma unroll
    for (int i = 0; i < kRun; ++i) largest = fmaxf(largest, fabsf(v[run * kRun + i]));
#pragma unroll
    for (int distance = kLanes / 2; distance >= 1; distance /= 2)
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, distance));
    return largest;
  }

  __device__ __forceinline__ void snap_fp8(int values) {
    constexpr int kRun = 64 / kLanes;
    if constexpr (kValues >= kRun) {
#pragma unroll
      for (int run = 0; run < kValues / kRun; ++run) {
        if (run * kRun >= values) continue;
        const Scale scale = power_of_two(fp8_exponent(run_max<kRun>(run)));
#pragma unroll
        for (int i = run * kRun; i < (run + 1) * kRun; ++i)
          v[i] = tile::e4m3_value(e4m3_code(v[i] * scale.inverse)) * scale.scale;
      }
    }
  }

  __device__ __forceinline__ void snap_fp4() {
    constexpr int kRun = 32 / kLanes;
#pragma unroll
    for (int run = 0; run < kValues / kRun; ++run) {
      const Scale scale = power_of_two(fp4_exponent(run_max<kRun>(run)));
#pragma unroll
      for (int i = run * kRun; i < (run + 1) * kRun; ++i) {
        const float x = v[i];  // e2m1 has no code for NaN
        v[i] =
            x != x ? x : tile::e2m1_value(tile::e2m1_from_float(x * scale.inverse)) * scale.scale;
      }
    }
  }
};

// Of the Hadamard transform.
inline float hadamard_factor(int64_t head_dim) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
}

// Head `own` of all rows' (one past the last is nobody's). By whole warps; waits for the kernels
// before, unless they have ended.
template <int kValues>
__device__ __forceinline__ void head_row(const HeadRowsParams& p, float factor, int64_t own,
                                         bool have_ended = false) {
  const int lane = threadIdx.x % kLanes;
  const int64_t heads = p.rows * p.heads;
  const int64_t at = min(own, heads - 1);  // all lanes take part in the exchanges
  if (!have_ended) tile::wait_for_producers();
  Head<kValues> head;
  head.load(p, at, lane);
  if (p.norm == HeadNorm::weighted) head.template norm<Norm::weighted>(p, lane);
  if (p.norm == HeadNorm::bf16_steps) head.template norm<Norm::bf16_steps>(p, lane);
  head.rotate(p.round, lane);
  if (p.hadamard) head.hadamard(factor, p.round, lane);
  if (p.snap == HeadSnap::fp8) head.snap_fp8(static_cast<int>(p.head_dim - p.rope_dim) / kLanes);
  if (p.snap == HeadSnap::fp4) head.snap_fp4();
  if (p.to_bf16 != nullptr) return head.store(p.to_bf16 + at * p.head_dim, lane, own < heads);
  if (own >= heads) return;
  float* const x = p.x + at / p.heads * p.row_stride + at % p.heads * p.head_dim + lane;
#pragma unroll
  for (int i = 0; i < kValues; ++i) x[i * kLanes] = head.v[i];
}

}  // namespace cachalot::ops::heads
