// A value of a cached row on the GPU: ops/quant/row_codec.h's decoding, one at a time.
#pragma once

#include <cstdint>

#include "tensor/rows.h"
#include "tile/scalar.cuh"

namespace cachalot::ops {

__device__ __forceinline__ float bf16_at(const std::byte* data, int64_t i) {
  return tile::bf16_value(reinterpret_cast<const uint16_t*>(data)[i]);
}

template <tensor::KvFormat kFormat>
__device__ __forceinline__ float kv_value(tensor::RowRef row, int64_t head_dim, int64_t rope_dim,
                                          int64_t i) {
  if constexpr (kFormat == tensor::KvFormat::f32) {
    return reinterpret_cast<const float*>(row.data)[i];
  } else if constexpr (kFormat == tensor::KvFormat::bf16) {
    return bf16_at(row.data, i);
  } else {
    const int64_t num_codes = head_dim - rope_dim;
    if (i >= num_codes) return bf16_at(row.data + num_codes, i - num_codes);
    return tile::e4m3_value(static_cast<uint32_t>(row.data[i])) *
           tile::e8m0_value(static_cast<uint32_t>(row.scale[i / 64]));
  }
}

}  // namespace cachalot::ops
