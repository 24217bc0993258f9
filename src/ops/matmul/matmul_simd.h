// The matrix product over float lanes: included by matmul_avx2.cpp and matmul_avx512.cpp, and
// compiled with the instruction set (and vec.h's Vec) of each. Everything is in unnamed namespaces,
// so the copies never mix.
#pragma once

#include "ops/matmul/codes_simd.h"
#include "ops/matmul/decode_simd.h"
#include "ops/matmul/matmul_kernels.h"
#include "ops/matmul/micro_simd.h"
#include "ops/matmul/pack_simd.h"
#include "ops/matmul/prepare_simd.h"
#include "ops/matmul/tiles_simd.h"

namespace cachalot::ops {
namespace {

// Inputs per pass over a panel that is read in place: 16 KB of it, so that later strips and row
// tiles find it in the first-level cache; of many row tiles 64 KB, since each pass reads and writes
// y once (Zen 5, 2048^3: 16 KB reach 74 % of the peak, 32 KB 85 %, 64 KB 89 %); all of them where
// there is one strip and one row tile.
inline int64_t direct_inputs(int64_t m, int64_t width, int64_t k, int64_t input_bytes) {
  if (strip_lanes(width) == width && m <= kRowTile) return k;
  const int64_t bytes = int64_t{m > kPrefetchedRows ? 64 : 16} << 10;
  return bytes / (PackedWeight::kPanelWidth * input_bytes);
}

__attribute__((noinline)) void direct_f32(const float* x, int64_t m, int64_t k, const float* w,
                                          int64_t width, float* y, int64_t y_stride, bool from_y) {
  if (m == 1) {
    return with_vectors(width, [&]<int kVectors>() {
      micro_f32<1, kVectors, false>(x, k, w, width, y, y_stride, from_y, {});
    });
  }
  const int64_t lanes = strip_lanes(width);
  const int64_t step = direct_inputs(m, width, k, 4);
  for (int64_t begin = 0; begin < k; begin += step, from_y = true) {
    const int64_t count = smaller(step, k - begin);
    const bool ahead = begin + count < k && m <= kPrefetchedRows;
    for (int64_t lane = 0; lane < width; lane += lanes) {
      each_row_tile(m, lanes, [&]<int kRows, int kVectors>(int64_t row) {
        const float* rows = x + row * k + begin * kRows;
        const float* strip = w + begin * width + lane;
        float* out = y + row * y_stride + lane;
        if (ahead && prefetches(row)) {
          micro_f32<kRows, kVectors, true>(rows, count, strip, width, out, y_stride, from_y,
                                           next_pass(strip + count * width, width, row));
        } else if (m > kPrefetchedRows && lane == 0) {
          micro_f32<kRows, kVectors, true>(rows, count, strip, width, out, y_stride, from_y,
                                           next_row_tile<kRows>(rows, k));
        } else {
          micro_f32<kRows, kVectors, false>(rows, count, strip, width, out, y_stride, from_y, {});
        }
      });
    }
  }
}

template <bool kOddFirst>
__attribute__((noinline)) void direct_bf16(const float* x, int64_t m, int64_t k, const uint16_t* w,
                                           int64_t width, float* y, int64_t y_stride, bool from_y) {
  if (m == 1) {
    return with_vectors(
        width, [&]<int kVectors>() { one_row_bf16<kVectors, kOddFirst>(x, k, w, y, from_y); });
  }
  const int64_t lanes = strip_lanes(width);
  const int64_t step = direct_inputs(m, width, k, 2);
  for (int64_t begin = 0; begin < k; begin += step, from_y = true) {
    const int64_t count = smaller(step, k - begin);
    const bool ahead = begin + count < k && m <= kPrefetchedRows;
    for (int64_t lane = 0; lane < width; lane += lanes) {
      each_row_tile(m, lanes, [&]<int kRows, int kVectors>(int64_t row) {
        const float* rows = x + row * k + begin * kRows;
        const uint16_t* strip = w + begin * width + lane * 2;
        float* out = y + row * y_stride + lane;
        if (ahead && prefetches(row)) {
          micro_bf16<kRows, kVectors, kOddFirst, true>(
              rows, count, strip, width, out, y_stride, from_y,
              next_pass(strip + count * width, width, row));
        } else {
          micro_bf16<kRows, kVectors, kOddFirst, false>(rows, count, strip, width, out, y_stride,
                                                        from_y, {});
        }
      });
    }
  }
}

// A strip of a panel, inputs [begin, end), decoded: floats [end - begin][lanes] in the order of the
// chain, and its scales [groups][kPanelWidth]. begin is a multiple of 128.
struct Strip {
  const PanelTask& t;
  int64_t begin, end;
  int64_t lane, lanes;
  float* out;
  float* scales;
};

void decode_strip_f32(const Strip& s) {
  const int64_t width = s.t.width;
  const auto* in = reinterpret_cast<const float*>(s.t.panel) + s.begin * width + s.lane;
  float* out = s.out;
  for (int64_t k = s.begin; k < s.end; ++k, in += width, out += s.lanes) {
    for (int64_t j = 0; j < s.lanes; j += Vec::kLanes) Vec::store(out + j, Vec::load(in + j));
  }
}

template <bool kOddFirst>
void decode_strip_bf16(const Strip& s) {
  const int64_t width = s.t.width;
  const auto* in = reinterpret_cast<const uint16_t*>(s.t.panel) + s.begin * width + s.lane * 2;
  float* out = s.out;
  for (int64_t k = s.begin; k < s.end; k += 2, in += 2 * width, out += 2 * s.lanes) {
    for (int64_t j = 0; j < s.lanes; j += Vec::kLanes) {
      const Vec::I pairs = Vec::load_bytes(in + 2 * j);
      Vec::store(out + j, first_of_pairs<kOddFirst>(pairs));
      Vec::store(out + s.lanes + j, second_of_pairs<kOddFirst>(pairs));
    }
  }
}

template <bool kOddFirst, bool kNanCodes>
void decode_strip_fp8(const Strip& s) {
  constexpr int64_t kScaleGroup = scale_group(WeightFormat::fp8);
  const int64_t width = s.t.width;
  const auto* in = reinterpret_cast<const uint8_t*>(s.t.panel) + s.begin * width + s.lane * 4;
  float* out = s.out;
  for (int64_t k = s.begin; k < s.end; k += 4, in += 4 * width, out += 4 * s.lanes) {
    for (int64_t j = 0; j < s.lanes; j += Vec::kLanes) {
      Vec::F decoded[4];
      decode_fp8<kOddFirst, kNanCodes>(Vec::load_bytes(in + 4 * j), decoded);
#pragma GCC unroll 4
      for (int t = 0; t < 4; ++t) Vec::store(out + t * s.lanes + j, decoded[t]);
    }
  }
  for (int64_t k = s.begin, g = 0; k < s.end; k += s.t.group, ++g) {
    const float scale = s.t.scales[k / kScaleGroup];
    for (int64_t j = 0; j < s.lanes; ++j) s.scales[g * PackedWeight::kPanelWidth + j] = scale;
  }
}

template <bool kOddFirst>
void decode_strip_fp4(const Strip& s) {
  const Vec::I high_table = Vec::table16(kFp4High), low_table = Vec::table16(kFp4Low);
  const int64_t width = s.t.width;
  const auto* in = reinterpret_cast<const uint8_t*>(s.t.panel) + s.begin / 32 * width * 17;
  float* out = s.out;
  float* scales = s.scales;
  for (int64_t k = s.begin; k < s.end;
       k += 32, in += 17 * width, scales += PackedWeight::kPanelWidth) {
    for (int64_t j = 0; j < s.lanes; j += Vec::kLanes)
      Vec::store(scales + j, decode_e8m0(in + s.lane + j));
    for (int run = 0; run < 4; ++run, out += 8 * s.lanes) {
      const uint8_t* codes = in + width + run * width * 4 + s.lane * 4;
      for (int64_t j = 0; j < s.lanes; j += Vec::kLanes) {
        const Vec::I octets = Vec::load_bytes(codes + 4 * j);
        Vec::I pairs[4];
        decode_fp4_pairs(octets, high_table, low_table, pairs);
        decode_fp4_pairs(Vec::shift_right_16(octets, 4), high_table, low_table, pairs + 2);
#pragma GCC unroll 4
        for (int t = 0; t < 4; ++t) {
          Vec::store(out + (2 * t) * s.lanes + j, first_of_pairs<kOddFirst>(pairs[t]));
          Vec::store(out + (2 * t + 1) * s.lanes + j, second_of_pairs<kOddFirst>(pairs[t]));
        }
      }
    }
  }
}

template <bool kOddFirst>
void decode_strip(const Strip& s) {
  switch (s.t.format) {
    case WeightFormat::f32: return decode_strip_f32(s);
    case WeightFormat::bf16: return decode_strip_bf16<kOddFirst>(s);
    case WeightFormat::fp8:
      return s.t.has_nan_codes ? decode_strip_fp8<kOddFirst, true>(s)
                               : decode_strip_fp8<kOddFirst, false>(s);
    case WeightFormat::fp4: return decode_strip_fp4<kOddFirst>(s);
  }
}

int64_t scratch_bytes(int64_t k_block) {
  return (k_block + k_block / 32) * PackedWeight::kPanelWidth * 4;
}

// Of an output's inputs in its panel.
inline int64_t bytes_of(WeightFormat format, int64_t inputs) {
  switch (format) {
    case WeightFormat::f32: return inputs * 4;
    case WeightFormat::bf16: return inputs * 2;
    case WeightFormat::fp8: return inputs;
    case WeightFormat::fp4: return inputs / 32 * 17;
  }
  return 0;
}

// Inputs [begin, end) of rows that are no panel, strip after strip: all strips at once, since a row
// is far from the next one, and its lines are quickest read together.
void copy_rows_as_strips(const PanelTask& t, int64_t begin, int64_t end, int64_t lanes,
                         float* out) {
  const auto* first = reinterpret_cast<const float*>(t.panel);
  const int64_t count = end - begin;
  for (int64_t k = begin; k < end; ++k, out += lanes) {
    const float* in = first + (t.input_rows == nullptr ? k : t.input_rows[k]) * t.input_stride;
    for (int64_t lane = 0; lane < t.width; lane += lanes) {
      for (int64_t j = 0; j < lanes; j += Vec::kLanes)
        Vec::store(out + lane * count + j, Vec::load(in + lane + j));
    }
  }
}

// Decodes a strip of a k block once, then multiplies every row tile with it.
template <bool kOddFirst>
void tiled(const PanelTask& t) {
  const int64_t k = t.k;
  const int64_t width = t.width;
  const int64_t group = t.group;
  const int64_t lanes = strip_lanes(width);
  const auto* x = static_cast<const float*>(t.x);
  const bool is_panel = t.input_stride == 0;
  auto* all = reinterpret_cast<float*>(t.scratch);
  float* tile = all;
  float* scales = all + t.k_block * PackedWeight::kPanelWidth;
  const std::byte* part = t.panel;
  for (int64_t begin = 0; begin < k; begin += t.k_block) {
    const int64_t count = smaller(t.k_block, k - begin);
    const bool from_y = begin > 0 || t.accumulate;
    const int64_t lane_bytes = bytes_of(t.format, count);
    part += lane_bytes * width;
    if (!is_panel) copy_rows_as_strips(t, begin, begin + count, lanes, all);
    for (int64_t lane = 0; lane < width; lane += lanes) {
      if (!is_panel) {
        tile = all + lane * count;
      } else {
        decode_strip<kOddFirst>({t, begin, begin + count, lane, lanes, tile, scales});
      }
      const Ahead next_codes{part + lane_bytes * lane, lane_bytes * lanes / count};
      each_row_tile(t.m, lanes, [&]<int kRows, int kVectors>(int64_t row) {
        const float* rows = x + row * k + begin * kRows;
        float* y = t.y + row * t.y_stride + lane;
        // The first row tile asks memory for the strip's share of the next k block, the others, as
        // the first strip finds x far away, for the next one's part of x.
        const Ahead next = row == 0 && is_panel ? next_codes : Ahead{rows + k * kRows, kRows * 4};
        const bool asks = row == 0 || lane == 0;
        if (group == 0 && asks) {
          micro_f32<kRows, kVectors, true>(rows, count, tile, lanes, y, t.y_stride, from_y, next);
        } else if (group == 0) {
          micro_f32<kRows, kVectors, false>(rows, count, tile, lanes, y, t.y_stride, from_y, {});
        } else if (asks) {
          micro_groups<kRows, kVectors, true>(rows, count, group, tile, lanes, y, t.y_stride,
                                              scales, !from_y, next);
        } else {
          micro_groups<kRows, kVectors, false>(rows, count, group, tile, lanes, y, t.y_stride,
                                               scales, !from_y, {});
        }
      });
    }
  }
}

// One row: the weights go from the panel through registers into the chain.
template <bool kOddFirst>
void one_row(const PanelTask& t) {
  const int64_t k = t.k;
  const auto* x = static_cast<const float*>(t.x);
  const auto* panel = reinterpret_cast<const uint8_t*>(t.panel);
  with_vectors(t.width, [&]<int kVectors>() {
    if (t.format == WeightFormat::fp4) {
      one_row_fp4<kVectors, kOddFirst>(x, k, panel, t.y, t.accumulate);
    } else if (t.has_nan_codes) {
      one_row_fp8<kVectors, kOddFirst, true>(x, k, t.group, panel, t.scales, t.y, t.accumulate);
    } else {
      one_row_fp8<kVectors, kOddFirst, false>(x, k, t.group, panel, t.scales, t.y, t.accumulate);
    }
  });
}

template <bool kOddFirst>
void run_in_order(const PanelTask& t) {
  const int64_t k = t.k;
  const int64_t width = t.width;
  const auto* x = static_cast<const float*>(t.x);
  const std::byte* panel = t.panel;
  if (t.group != 0 && t.m == 1) {
    one_row<kOddFirst>(t);
  } else if (has_scaled_x(t)) {
    if constexpr (kReadsCodes)
      t.has_nan_codes ? codes_fp8<kOddFirst, true>(t) : codes_fp8<kOddFirst, false>(t);
  } else if (t.format == WeightFormat::fp4 && t.m < kTiledFp4Rows) {
    if constexpr (kReadsCodes) codes_fp4<kOddFirst>(t);
  } else if (t.group != 0) {
    tiled<kOddFirst>(t);
  } else if (t.m >= kTiledRows) {
    tiled<kOddFirst>(t);
  } else if (t.format == WeightFormat::f32) {
    direct_f32(x, t.m, k, reinterpret_cast<const float*>(panel), width, t.y, t.y_stride,
               t.accumulate);
  } else {
    direct_bf16<kOddFirst>(x, t.m, k, reinterpret_cast<const uint16_t*>(panel), width, t.y,
                           t.y_stride, t.accumulate);
  }
}

void run(const PanelTask& t) {
  t.math == MatmulMath::bf16 ? run_in_order<true>(t) : run_in_order<false>(t);
}

bool reads_copies(WeightFormat format, int64_t m) {
  return Vec::kXCopies > 1 && m == 1 &&
         (format == WeightFormat::fp8 || format == WeightFormat::fp4);
}

int64_t prepared_x_bytes(WeightFormat format, int64_t m, int64_t k) {
  if (may_scale_x(format, m)) return (is_scaled_at(m * k) + 1) * 4;
  return m * k * 4 * (reads_copies(format, m) ? Vec::kXCopies : 1);
}

// One row with Vec::kXCopies copies of every input; k is a multiple of 4.
template <typename Elements>
void prepare_copies(const float* x, int64_t num_inputs, int64_t k, float* out) {
  for (int64_t begin = 0; begin < k; begin += 4) {
    alignas(16) float inputs[4];
    _mm_store_ps(inputs, Elements::load(x + begin, num_inputs - begin));
    for (int i = 0; i < 4; ++i, out += Vec::kXCopies) Vec::store(out, Vec::broadcast(inputs + i));
  }
}

void prepare_x(WeightFormat format, MatmulMath math, const float* x, int64_t x_stride,
               const int32_t* x_rows, int64_t m, int64_t num_inputs, int64_t k, void* out) {
  auto* to = static_cast<float*>(out);
  const bool bf16 = math == MatmulMath::bf16;
  if (reads_copies(format, m)) {
    const float* row = x + (x_rows != nullptr ? x_rows[0] : 0) * x_stride;
    bf16 ? prepare_copies<OddFirstElements>(row, num_inputs, k, to)
         : prepare_copies<FloatElements>(row, num_inputs, k, to);
  } else {
    bf16 ? prepare_rows<OddFirstElements>(x, x_stride, x_rows, m, num_inputs, k, to)
         : prepare_rows<FloatElements>(x, x_stride, x_rows, m, num_inputs, k, to);
    if (may_scale_x(format, m)) scale_x(to, m * k);
  }
}

}  // namespace
}  // namespace cachalot::ops
