// The vector work of index_select on one tile of keys, one table an instruction set. Lane = key.
// Numerics  index_select.h's. How queries are grouped changes no bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/isa.h"

namespace cachalot::ops {

inline constexpr int64_t kIndexTileKeys = 64;
inline constexpr int64_t kIndexRunKeys = 16;

// Sixteen fp4 keys that lie one after the other in their block (quant/row_codec.h).
struct Fp4Run {
  const std::byte* codes;
  const std::byte* scales;
};

struct IndexKernels {
  // Queries [rows, dim] and n <= 64 keys, rows of `dim` floats `stride` apart, in the forms that
  // the products read: rows * dim, or 64 * dim floats of room (dim rounded up to even). Lanes from
  // n on are zero. The queries' form is the same memory where none is needed: then prepare_queries
  // is null.
  void (*prepare_queries)(const float* q, int64_t rows, int64_t dim, float* prepared);
  int64_t (*query_stride)(int64_t dim);
  void (*pack_keys)(const float* keys, int64_t stride, int64_t n, int64_t dim, float* panel);
  // The same from 64 fp4 keys as they lie. False where their scales are out of the range in which
  // it is exact, then the panel is garbage. A zero may lose its sign, which changes no score:
  // chains begin at +0, and relu makes +0 of either. Null where there is no such version; dim is
  // 32, 64 or 128.
  bool (*pack_fp4_keys)(const Fp4Run runs[4], int64_t dim, float* panel);

  // dots [rows][64] = queries . keys.
  void (*multiply)(const float* queries, int64_t rows, int64_t dim, const float* panel,
                   bool bf16_math, float* dots);
  // scores [64] = sum over heads of relu(dots) * weight.
  void (*reduce)(const float* dots, const float* weight, int64_t heads, bool round_scores,
                 float* scores);
  // Bit i: scores[i] > threshold, i < 64. False for NaN.
  uint64_t (*above)(const float* scores, float threshold);
};

const IndexKernels& index_kernels(device::Isa isa, bool bf16_math);  // avx2 or above
extern const IndexKernels kIndexAvx2, kIndexAvx512;
extern const IndexKernels kIndexAvx512Bf16;  // bf16 math only

}  // namespace cachalot::ops
