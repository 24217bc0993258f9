// The products with packed weights on the GPU, plain: a thread an output (of some rows), its chain
// over the panel's stream. Bits and layout: matmul.h, packed_weight.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/matmul/matmul.h"
#include "tile/convert.cuh"
#include "tile/scalar.cuh"

namespace cachalot::ops::packed {

// What kernels know of a weight; `data` lies on the device.
struct Weight {
  const std::byte* data;
  int64_t rows;
  int64_t columns;
  int64_t padded_columns;
  int64_t scales_offset;  // fp8
  int64_t sum_group;
};

inline Weight weight_of(const PackedWeight& w) {
  return {w.bytes().data(),
          w.rows(),
          w.columns(),
          w.padded_columns(),
          w.panel_scales(0) == nullptr
              ? 0
              : reinterpret_cast<const std::byte*>(w.panel_scales(0)) - w.bytes().data(),
          w.sum_group()};
}

// Inputs that a lane reads at a time.
template <WeightFormat kFormat>
inline constexpr int kUnit = kFormat == WeightFormat::f32    ? 1
                             : kFormat == WeightFormat::bf16 ? 2
                             : kFormat == WeightFormat::fp8  ? 4
                                                             : 8;

// A panel, as one lane reads it.
template <WeightFormat kFormat>
struct Lane {
  const std::byte* panel;
  const float* scales;  // fp8
  int width;
  int lane;

  __device__ Lane(const Weight& w, int64_t row) {
    const int64_t panel_idx = row / PackedWeight::kPanelWidth;
    const int64_t left = w.rows - panel_idx * PackedWeight::kPanelWidth;
    width = static_cast<int>(left >= PackedWeight::kPanelWidth ? PackedWeight::kPanelWidth
                                                               : (left + 15) / 16 * 16);
    lane = static_cast<int>(row % PackedWeight::kPanelWidth);
    constexpr int64_t kWidth = PackedWeight::kPanelWidth;
    const int64_t k = w.padded_columns;
    int64_t panel_bytes = k * kWidth;
    if (kFormat == WeightFormat::f32) panel_bytes = k * kWidth * 4;
    if (kFormat == WeightFormat::bf16) panel_bytes = k * kWidth * 2;
    if (kFormat == WeightFormat::fp4) panel_bytes = k / 32 * (kWidth + kWidth * 16);
    panel = w.data + panel_idx * panel_bytes;
    scales = reinterpret_cast<const float*>(w.data + w.scales_offset) +
             panel_idx * ((w.columns + 127) / 128);
  }

  // Inputs k, k + 1, ...; k a multiple of the unit.
  __device__ void load(int64_t k, float (&values)[kUnit<kFormat>]) const {
    if constexpr (kFormat == WeightFormat::f32) {
      values[0] = reinterpret_cast<const float*>(panel)[k * width + lane];
    } else if constexpr (kFormat == WeightFormat::bf16) {
      const uint32_t pair = reinterpret_cast<const uint32_t*>(panel)[k / 2 * width + lane];
      values[0] = tile::low_bf16(pair);
      values[1] = tile::high_bf16(pair);
    } else if constexpr (kFormat == WeightFormat::fp8) {
      const uint32_t codes = reinterpret_cast<const uint32_t*>(panel)[k / 4 * width + lane];
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] = tile::e4m3_value(codes >> (8 * i) & 0xFF);
    } else {
      const std::byte* octet =
          panel + k / 32 * width * 17 + width + (k % 32 / 8 * (width / 8) + lane / 8) * 32;
      const std::byte* codes = octet + lane % 8 / 4 * 16 + lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t bytes = *reinterpret_cast<const uint16_t*>(codes + i * 8);
        values[2 * i] = tile::e2m1_value(bytes);
        values[2 * i + 1] = tile::e2m1_value(bytes >> 8);
        values[2 * i + 4] = tile::e2m1_value(bytes >> 4);
        values[2 * i + 5] = tile::e2m1_value(bytes >> 12);
      }
    }
  }

  __device__ float scale(int64_t k) const {
    if constexpr (kFormat == WeightFormat::fp8) return scales[k / 128];
    return tile::e8m0_value(static_cast<uint32_t>(panel[k / 32 * width * 17 + lane]));
  }
};

// Outputs (i, row) for kRows rows of x.
template <WeightFormat kFormat, bool kBf16, int kRows>
__device__ void outputs(const Weight& w, int64_t row, const float* const (&x)[kRows],
                        int64_t chain_inputs, float (&y)[kRows]) {
  constexpr int kInputs = kUnit<kFormat>;
  constexpr bool kScaled = kFormat == WeightFormat::fp8 || kFormat == WeightFormat::fp4;
  const Lane<kFormat> lane(w, row);
  const int64_t chain = kScaled ? w.sum_group : chain_inputs > 0 ? chain_inputs : w.padded_columns;
  float total[kRows] = {};
  for (int64_t begin = 0; begin < w.padded_columns; begin += chain) {
    const int64_t end = min(begin + chain, w.padded_columns);
    float acc[kRows] = {};
#pragma unroll 4
    for (int64_t k = begin; k < end; k += kInputs) {
      float weight[kInputs];
      lane.load(k, weight);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const auto input = [&](int i) { return k + i < w.columns ? x[r][k + i] : 0.0f; };
        if constexpr (kBf16) {
#pragma unroll
          for (int i = 0; i < kInputs; i += 2) {
            acc[r] = tile::fma_ftz(input(i + 1), weight[i + 1], acc[r]);
            acc[r] = tile::fma_ftz(input(i), weight[i], acc[r]);
          }
        } else {
#pragma unroll
          for (int i = 0; i < kInputs; ++i) acc[r] = fmaf(input(i), weight[i], acc[r]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if constexpr (kScaled) {
        total[r] = fmaf(acc[r], lane.scale(begin), total[r]);
        if constexpr (kBf16) total[r] = tile::without_denormal(total[r]);
      } else {
        total[r] = begin == 0 ? acc[r] : total[r] + acc[r];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) y[r] = total[r];
}

// fn.template operator()<format, bf16 math>() of the two as constants; f32 weights have f32 math.
template <typename Fn>
void with_format(WeightFormat format, MatmulMath math, Fn fn) {
  const bool bf16 = math == MatmulMath::bf16;
  switch (format) {
    case WeightFormat::f32: return fn.template operator()<WeightFormat::f32, false>();
    case WeightFormat::bf16:
      return bf16 ? fn.template operator()<WeightFormat::bf16, true>()
                  : fn.template operator()<WeightFormat::bf16, false>();
    case WeightFormat::fp8:
      return bf16 ? fn.template operator()<WeightFormat::fp8, true>()
                  : fn.template operator()<WeightFormat::fp8, false>();
    case WeightFormat::fp4:
      return bf16 ? fn.template operator()<WeightFormat::fp4, true>()
                  : fn.template operator()<WeightFormat::fp4, false>();
  }
}

}  // namespace cachalot::ops::packed
