// The matrix product for AVX-512 with BF16 and VBMI: bf16 math on vdpbf16ps, whose order and
// roundings matmul.h's chain is; f32 math is AVX-512's. x is prepared as pairs of bf16.
#include "ops/matmul/decode_simd.h"
#include "ops/matmul/e4m3_tables.h"
#include "ops/matmul/matmul_kernels.h"
#include "ops/matmul/pack_simd.h"
#include "ops/matmul/prepare_simd.h"
#include "ops/matmul/tiles_simd.h"

namespace cachalot::ops {
namespace {

using F = Vec::F;
using I = Vec::I;

// acc + the pair's odd product, then + its even product, each step rounded: the instruction's own
// order.
inline F dot(F acc, I x_pair, I w_pairs) {
  return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(x_pair),
                          reinterpret_cast<__m512bh>(w_pairs));
}
inline I broadcast_pair(const uint32_t* x) { return _mm512_set1_epi32(static_cast<int>(*x)); }

template <int kRows, int kVectors>
inline void clear(F acc[kRows][kVectors]) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) acc[r][j] = Vec::zero();
  }
}

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

template <int kRows, int kVectors>
inline void add_scaled(const F acc[kRows][kVectors], const F scale[kVectors], float* y,
                       int64_t y_stride, bool first) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      float* out = y + r * y_stride + j * 16;
      Vec::store(out, Vec::fma(acc[r][j], scale[j], first ? Vec::zero() : Vec::load(out)));
    }
  }
}

template <int kRows, int kVectors>
CACHALOT_KERNEL void micro_pair_groups(const uint32_t* x, int64_t pairs, int64_t group_pairs,
                                       const uint16_t* w, float* y, int64_t y_stride,
                                       const float* scales, bool first) {
  for (int64_t begin = 0; begin < pairs;
       begin += group_pairs, scales += PackedWeight::kPanelWidth, first = false) {
    const int64_t end = smaller(pairs, begin + group_pairs);
    F acc[kRows][kVectors];
    clear<kRows, kVectors>(acc);
    for (int64_t i = begin; i < end; ++i)
      step<kRows, kVectors>(acc, x + i * kRows, w + i * kVectors * 32);
    F scale[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) scale[j] = Vec::load(scales + j * 16);
    add_scaled<kRows, kVectors>(acc, scale, y, y_stride, first);
  }
}

// Four e4m3 codes per lane to two vectors of bf16 pairs, by tables of both bytes over the seven
// magnitude bits.
struct Fp8Decoder {
  I low[2], high[2], first_pair, second_pair;

  Fp8Decoder() {
    for (int i = 0; i < 2; ++i) {
      low[i] = Vec::load_bytes(kE4m3Tables.low + i * 64);
      high[i] = Vec::load_bytes(kE4m3Tables.high + i * 64);
    }
    first_pair = Vec::load_bytes(kE4m3Tables.first_pair);
    second_pair = Vec::load_bytes(kE4m3Tables.second_pair);
  }
  void decode(I codes, I pairs[2]) const {
    const I low_bytes = _mm512_permutex2var_epi8(low[0], codes, low[1]);
    const I magnitude = _mm512_permutex2var_epi8(high[0], codes, high[1]);
    constexpr int kAOrBAndC = 0xF8;
    const I high_bytes = _mm512_ternarylogic_epi32(magnitude, codes, Vec::splat8(0x80), kAOrBAndC);
    pairs[0] = _mm512_permutex2var_epi8(low_bytes, first_pair, high_bytes);
    pairs[1] = _mm512_permutex2var_epi8(low_bytes, second_pair, high_bytes);
  }
};

struct Fp4Decoder {
  I high_table = Vec::table16(kFp4High), low_table = Vec::table16(kFp4Low);

  void decode(I codes, I pairs[4]) const {
    decode_fp4_pairs(codes, high_table, low_table, pairs);
    decode_fp4_pairs(Vec::shift_right_16(codes, 4), high_table, low_table, pairs + 2);
  }
};

template <int kVectors>
CACHALOT_KERNEL void one_row_fp8(const uint32_t* x, int64_t k, int64_t group, const uint8_t* w,
                                 const float* scales, float* y) {
  const Fp8Decoder decoder;
  for (int64_t begin = 0; begin < k; begin += group) {
    const int64_t end = smaller(k, begin + group);
    F acc[1][kVectors];
    clear<1, kVectors>(acc);
    for (int64_t i = begin; i < end; i += 4, x += 2) {
      prefetch_stream<64 * kVectors>(w);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j, w += 64) {
        I pairs[2];
        decoder.decode(Vec::load_bytes(w), pairs);
        acc[0][j] = dot(acc[0][j], broadcast_pair(x), pairs[0]);
        acc[0][j] = dot(acc[0][j], broadcast_pair(x + 1), pairs[1]);
      }
    }
    F scale[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) scale[j] = Vec::broadcast(scales + begin / 128);
    add_scaled<1, kVectors>(acc, scale, y, 0, begin == 0);
  }
}

template <int kVectors>
CACHALOT_KERNEL void one_row_fp4(const uint32_t* x, int64_t k, const uint8_t* w, float* y) {
  const Fp4Decoder decoder;
  for (int64_t begin = 0; begin < k; begin += 32) {
    F scale[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) scale[j] = decode_e8m0(w + j * 16);
    w += kVectors * 16;
    F acc[1][kVectors];
    clear<1, kVectors>(acc);
    for (int run = 0; run < 4; ++run, x += 4) {
      prefetch_stream<64 * kVectors>(w);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j, w += 64) {
        I pairs[4];
        decoder.decode(Vec::load_bytes(w), pairs);
#pragma GCC unroll 4
        for (int t = 0; t < 4; ++t) acc[0][j] = dot(acc[0][j], broadcast_pair(x + t), pairs[t]);
      }
    }
    add_scaled<1, kVectors>(acc, scale, y, 0, begin == 0);
  }
}

// Inputs [begin, end) of the panel as pairs of bf16 [pairs][width], and their scales
// [groups][kPanelWidth].
void decode_fp8_panel(const PanelTask& t, int64_t begin, int64_t end, uint16_t* out,
                      float* scales) {
  const Fp8Decoder decoder;
  const auto* in = reinterpret_cast<const uint8_t*>(t.panel) + begin * t.width;
  for (int64_t k = begin; k < end; k += 4, in += 4 * t.width, out += 4 * t.width) {
    for (int64_t j = 0; j < t.width; j += 16) {
      I pairs[2];
      decoder.decode(Vec::load_bytes(in + 4 * j), pairs);
      _mm512_storeu_si512(out + 2 * j, pairs[0]);
      _mm512_storeu_si512(out + 2 * t.width + 2 * j, pairs[1]);
    }
  }
  for (int64_t k = begin; k < end; k += t.group, scales += PackedWeight::kPanelWidth) {
    const F scale = Vec::broadcast(t.scales + k / 128);
    for (int64_t j = 0; j < t.width; j += 16) Vec::store(scales + j, scale);
  }
}

void decode_fp4_panel(const PanelTask& t, int64_t begin, int64_t end, uint16_t* out,
                      float* scales) {
  const Fp4Decoder decoder;
  const auto* in = reinterpret_cast<const uint8_t*>(t.panel) + begin / 32 * t.width * 17;
  for (int64_t k = begin; k < end; k += 32, scales += PackedWeight::kPanelWidth) {
    for (int64_t j = 0; j < t.width; j += 16) Vec::store(scales + j, decode_e8m0(in + j));
    in += t.width;
    for (int run = 0; run < 4; ++run, in += 4 * t.width, out += 8 * t.width) {
      for (int64_t j = 0; j < t.width; j += 16) {
        I pairs[4];
        decoder.decode(Vec::load_bytes(in + 4 * j), pairs);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) _mm512_storeu_si512(out + 2 * i * t.width + 2 * j, pairs[i]);
      }
    }
  }
}

void run_quantised(const PanelTask& t) {
  const auto* x = static_cast<const uint32_t*>(t.x);
  auto* tile = reinterpret_cast<uint16_t*>(t.scratch);
  auto* scales = reinterpret_cast<float*>(t.scratch + t.k_block * PackedWeight::kPanelWidth * 2);
  for (int64_t begin = 0; begin < t.k; begin += t.k_block) {
    const int64_t count = smaller(t.k_block, t.k - begin);
    if (t.format == WeightFormat::fp8) {
      decode_fp8_panel(t, begin, begin + count, tile, scales);
    } else {
      decode_fp4_panel(t, begin, begin + count, tile, scales);
    }
    each_row_tile(t.m, t.width, [&]<int kRows, int kVectors>(int64_t row) {
      micro_pair_groups<kRows, kVectors>(x + row * (t.k / 2) + begin / 2 * kRows, count / 2,
                                         t.group / 2, tile, t.y + row * t.y_stride, t.y_stride,
                                         scales, begin == 0);
    });
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
  const auto* x = static_cast<const uint32_t*>(t.x);
  const auto* panel = reinterpret_cast<const uint8_t*>(t.panel);
  if (t.group == 0) {
    direct_pairs(x, t.m, t.k, reinterpret_cast<const uint16_t*>(panel), t.width, t.y, t.y_stride,
                 false);
  } else if (t.m > 1) {
    run_quantised(t);
  } else {
    with_vectors(t.width, [&]<int kVectors>() {
      t.format == WeightFormat::fp8 ? one_row_fp8<kVectors>(x, t.k, t.group, panel, t.scales, t.y)
                                    : one_row_fp4<kVectors>(x, t.k, panel, t.y);
    });
  }
}

int64_t prepared_x_bytes(WeightFormat, int64_t m, int64_t k) { return m * k * 4; }

void prepare_x(WeightFormat format, MatmulMath math, const float* x, int64_t x_stride,
               const int32_t* x_rows, int64_t m, int64_t num_inputs, int64_t k, void* out) {
  if (math == MatmulMath::f32)
    return kMatmulAvx512.prepare_x(format, math, x, x_stride, x_rows, m, num_inputs, k, out);
  prepare_rows<PairElements>(x, x_stride, x_rows, m, num_inputs, k, static_cast<float*>(out));
}

int64_t scratch_bytes(int64_t k_block) { return kMatmulAvx512.scratch_bytes(k_block); }

}  // namespace

const MatmulKernels kMatmulAvx512Bf16 = {
    {pack_rows_transposed_f32, pack_rows_transposed_bf16, pack_rows_f32, pack_rows_bf16},
    prepared_x_bytes,
    prepare_x,
    prepare_columns,
    scratch_bytes,
    run};

}  // namespace cachalot::ops
