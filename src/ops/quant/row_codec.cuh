// ops/quant/row_codec.h on the GPU: the same bits. Rows are encoded by warps, a piece of up to 64
// values each, and decoded value by value.
#pragma once

#include "ops/quant/act_quant.cuh"
#include "ops/quant/row_codec.h"
#include "tile/scalar.cuh"

namespace cachalot::ops {

inline constexpr int64_t kRowPiece = 64;

// Pieces of a row, one warp each: fp8 KV has a scale for each piece of its codes, and the rotary
// part begins a piece of its own; the scale of an fp8 index row is its whole's, which is one piece.
__host__ __device__ inline int64_t kv_row_pieces(tensor::KvFormat format, int64_t head_dim,
                                                 int64_t rope_dim) {
  const int64_t codes = format == tensor::KvFormat::fp8 ? head_dim - rope_dim : 0;
  return (codes + kRowPiece - 1) / kRowPiece + (head_dim - codes + kRowPiece - 1) / kRowPiece;
}
__host__ __device__ inline int64_t index_row_pieces(tensor::IndexFormat format, int64_t dim) {
  return format == tensor::IndexFormat::fp8 ? 1 : (dim + kRowPiece - 1) / kRowPiece;
}

// A row's values lie on multiples of their own size.
template <typename T>
__device__ __forceinline__ T& value_at(std::byte* row, int64_t i) {
  return reinterpret_cast<T*>(row)[i];
}

// The largest magnitude of x[first, last), by a warp.
__device__ __forceinline__ float max_magnitude(const float* x, int64_t first, int64_t last) {
  float largest = 0;
  for (int64_t i = first + threadIdx.x % 32; i < last; i += 32)
    largest = fmaxf(largest, fabsf(x[i]));
  return warp_max_magnitude(largest);
}

__device__ inline void encode_kv_piece(tensor::KvFormat format, const float* x, int64_t head_dim,
                                       int64_t rope_dim, int64_t piece, tensor::RowRef row) {
  const int lane = threadIdx.x % 32;
  if (format != tensor::KvFormat::fp8) {
    const int64_t last = min(head_dim, (piece + 1) * kRowPiece);
    for (int64_t i = piece * kRowPiece + lane; i < last; i += 32) {
      if (format == tensor::KvFormat::bf16) {
        value_at<uint16_t>(row.data, i) = tile::bf16_bits(x[i]);
      } else {
        value_at<float>(row.data, i) = x[i];
      }
    }
    return;
  }
  const int64_t codes = head_dim - rope_dim;
  const int64_t blocks = (codes + kRowPiece - 1) / kRowPiece;
  if (piece >= blocks) {
    const int64_t last = min(rope_dim, (piece - blocks + 1) * kRowPiece);
    for (int64_t i = (piece - blocks) * kRowPiece + lane; i < last; i += 32)
      value_at<uint16_t>(row.data + codes, i) = tile::bf16_bits(x[codes + i]);
    return;
  }
  const int64_t first = piece * kRowPiece, last = min(codes, first + kRowPiece);
  const int exponent = fp8_exponent(max_magnitude(x, first, last));
  const float scale = scale_of(exponent);
  for (int64_t i = first + lane; i < last; i += 32)
    row.data[i] = std::byte{e4m3_code(x[i] / scale)};
  if (lane == 0) row.scale[piece] = static_cast<std::byte>(exponent + 127);
  if (piece + 1 == blocks && lane > 0 && piece + lane < (blocks + 7) / 8 * 8)
    row.scale[piece + lane] = std::byte{0};
}

__device__ inline void encode_index_piece(tensor::IndexFormat format, const float* x, int64_t dim,
                                          int64_t piece, tensor::RowRef row) {
  const int lane = threadIdx.x % 32;
  if (format == tensor::IndexFormat::fp8) {
    const float largest = fmaxf(max_magnitude(x, 0, dim), kFp8AmaxFloor);
    const float scale = fminf(largest, __uint_as_float(0x7F7FFFFFu)) / 448.0f;
    for (int64_t i = lane; i < dim; i += 32) row.data[i] = std::byte{e4m3_code(x[i] / scale)};
    if (lane == 0) value_at<float>(row.scale, 0) = scale;
    return;
  }
  const int64_t first = piece * kRowPiece, last = min(dim, first + kRowPiece);
  if (format != tensor::IndexFormat::fp4) {
    for (int64_t i = first + lane; i < last; i += 32) {
      if (format == tensor::IndexFormat::bf16) {
        value_at<uint16_t>(row.data, i) = tile::bf16_bits(x[i]);
      } else {
        value_at<float>(row.data, i) = x[i];
      }
    }
    return;
  }
  for (int64_t begin = first; begin < last; begin += 32) {
    const int exponent = fp4_exponent(max_magnitude(x, begin, begin + 32));
    const uint32_t code = tile::e2m1_from_float(x[begin + lane] / scale_of(exponent));
    const uint32_t high = __shfl_down_sync(kWarp, code, 1);
    if (lane % 2 == 0) row.data[(begin + lane) / 2] = static_cast<std::byte>(code | high << 4);
    if (lane == 0) row.scale[begin / 32] = static_cast<std::byte>(exponent + 127);
  }
}

// Value i of an index row; of a KV row: row_value.cuh.
__device__ __forceinline__ float decode_index_value(tensor::IndexFormat format, tensor::RowRef row,
                                                    int64_t i) {
  switch (format) {
    case tensor::IndexFormat::f32: return value_at<float>(row.data, i);
    case tensor::IndexFormat::bf16: return tile::low_bf16(value_at<uint16_t>(row.data, i));
    case tensor::IndexFormat::fp4: {
      const auto pair = static_cast<uint32_t>(row.data[i / 2]);
      return tile::e2m1_value(i % 2 == 0 ? pair & 15 : pair >> 4) *
             tile::e8m0_value(static_cast<uint32_t>(row.scale[i / 32]));
    }
    case tensor::IndexFormat::fp8: break;
  }
  return tile::e4m3_value(static_cast<uint32_t>(row.data[i])) * value_at<float>(row.scale, 0);
}

}  // namespace cachalot::ops
