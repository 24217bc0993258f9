// The matrix product for AVX-512 with BF16 and VBMI: bf16 math on vdpbf16ps, whose order and
// roundings matmul.h's chain is; f32 math is AVX-512's. x is prepared as pairs of bf16.
#include "ops/matmul/matmul_kernels.h"
#include "ops/matmul/pack_simd.h"
#include "ops/matmul/prepare_pairs_avx512bf16.h"
#include "ops/matmul/quantised_avx512bf16.h"
#include "ops/matmul/round_simd.h"
#include "ops/matmul/tiles_simd.h"

namespace cachalot::ops {
namespace {

template <int kRows, int kVectors>
inline void step(F acc[kRows][kVectors], const uint32_t* x, const uint16_t* w) {
  I b[kVectors];
#pragma GCC unroll 4
  for (int j = 0; j < kVectors; ++j) b[j] = Vec::load_bytes(w + j * 32);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const I a = broadcast_pair(x + r);
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) acc[r][j] = dot(acc[r][j], a, b[j]);
  }
}

// As micro_simd.h's: x is [pairs][kRows], w [pairs][width] pairs.
template <int kRows, int kVectors, bool kAhead>
CACHALOT_KERNEL void micro_pairs(const uint32_t* x, int64_t pairs, const uint16_t* w, float* y,
                                 int64_t y_stride, bool from_y, Ahead ahead) {
  F acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j)
      acc[r][j] = from_y ? Vec::load(y + r * y_stride + j * 16) : Vec::zero();
  }
  for (int64_t i = 0; i < pairs; ++i) {
    prefetch<kAhead>(ahead, i);
    step<kRows, kVectors>(acc, x + i * kRows, w + i * kVectors * 32);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) Vec::store(y + r * y_stride + j * 16, acc[r][j]);
  }
}

// Inputs of a pass over the panel, where several row tiles read it: 32 KB of it, or 16 where the
// next 16 are on their way.
constexpr int64_t kPassInputs = 512, kPrefetchedPassInputs = 128;

void direct_pairs(const uint32_t* x, int64_t m, int64_t k, const uint16_t* w, int64_t width,
                  float* y, int64_t y_stride, bool from_y) {
  const int64_t pass = m <= kRowTile          ? k
                       : m <= kPrefetchedRows ? kPrefetchedPassInputs
                                              : kPassInputs;
  for (int64_t begin = 0; begin < k; begin += pass, from_y = true) {
    const int64_t count = smaller(pass, k - begin);
    const bool ahead = begin + count < k && m <= kPrefetchedRows;
    each_row_tile(m, width, [&]<int kRows, int kVectors>(int64_t row) {
      const uint32_t* rows = x + row * (k / 2) + begin / 2 * kRows;
      const uint16_t* part = w + begin * width;
      if (ahead) {
        micro_pairs<kRows, kVectors, true>(rows, count / 2, part, y + row * y_stride, y_stride,
                                           from_y, next_pass(part + count * width, width, row));
      } else if (m > kPrefetchedRows) {
        micro_pairs<kRows, kVectors, true>(rows, count / 2, part, y + row * y_stride, y_stride,
                                           from_y, next_row_tile<kRows>(rows, k / 2));
      } else {
        micro_pairs<kRows, kVectors, false>(rows, count / 2, part, y + row * y_stride, y_stride,
                                            from_y, {});
      }
    });
  }
}

void run(const PanelTask& t) {
  if (t.math == MatmulMath::f32) return kMatmulAvx512.run(t);
  if (t.group == 0) {
    direct_pairs(static_cast<const uint32_t*>(t.x), t.m, t.k,
                 reinterpret_cast<const uint16_t*>(t.panel), t.width, t.y, t.y_stride, false);
  } else {
    run_quantised(t);
  }
}

int64_t prepared_x_bytes(WeightFormat, int64_t m, int64_t k) { return m * k * 4; }

void prepare_x(WeightFormat format, MatmulMath math, const float* x, int64_t x_stride,
               const int32_t* x_rows, int64_t m, int64_t num_inputs, int64_t k, void* out) {
  if (math == MatmulMath::f32)
    return kMatmulAvx512.prepare_x(format, math, x, x_stride, x_rows, m, num_inputs, k, out);
  prepare_rows<PairElements>(x, x_stride, x_rows, m, num_inputs, k, static_cast<float*>(out),
                             scale_group(format) > 0 ? kPairRowTile : kRowTile);
}

int64_t scratch_bytes(int64_t k_block) { return kMatmulAvx512.scratch_bytes(k_block); }

}  // namespace

const MatmulKernels kMatmulAvx512Bf16 = {
    {pack_rows_transposed_f32, pack_rows_transposed_bf16, pack_rows_f32, pack_rows_bf16},
    prepared_x_bytes,
    prepare_x,
    prepare_columns,
    scratch_bytes,
    kNeverCopied,
    run,
    round_rows};

}  // namespace cachalot::ops
