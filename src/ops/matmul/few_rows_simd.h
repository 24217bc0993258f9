// Products of two to four rows with quantised weights: codes go from the panel through registers
// into the chains, a strip of outputs at a time. By passes over so few inputs that their part of
// the panel (8 KB) stays in the first-level cache for all strips, while the next part is on its way
// (docs/kernels/matmul.md).
#pragma once

#include "ops/matmul/decode_simd.h"
#include "ops/matmul/matmul_kernels.h"
#include "ops/matmul/micro_simd.h"
#include "ops/matmul/tiles_simd.h"

namespace cachalot::ops {
namespace {

// More rows share a decoded copy of a strip: a tile of them would have no registers left to decode
// in. AVX-512 decodes into a copy from two rows on.
constexpr int64_t kFewRows = Vec::kLanes == 8 ? 4 : 0;
constexpr int64_t kFewRowsPass = 128;
constexpr int kFewRowsVectors = Vec::kStripLanes / Vec::kLanes;
// With more rows what two inputs have in common is made again.
constexpr int kRowsBesideCodes = 3;

// Inputs [0, k) of the strip from `lane` on. x is [k][rows]. w: fp8, the strip's codes of the first
// input; fp4, the first group, of all lanes.
struct FewRowsStrip {
  const float* x;
  int64_t k;
  int64_t group;  // fp8: inputs summed before their scale
  const uint8_t* w;
  int64_t width;
  int64_t lane;
  const float* scales;  // fp8, from the first input's on
  float* y;             // of the strip
  int64_t y_stride;
  bool first;
  const uint8_t* ahead;  // what to ask memory for, a line a step
};

template <int kRows>
inline const uint8_t* codes_at(const uint8_t* w) {
  return kRows > kRowsBesideCodes ? reload(w) : w;
}

template <int kRows, bool kOddFirst, bool kNanCodes>
CACHALOT_KERNEL void few_rows_fp8(const FewRowsStrip& strip) {
  constexpr int64_t kScaleGroup = scale_group(WeightFormat::fp8);
  const int64_t k = strip.k, step = 4 * strip.width;
  const float* x = strip.x;
  const uint8_t *w = strip.w, *ahead = strip.ahead;
  for (int64_t begin = 0; begin < k; begin += strip.group) {
    const int64_t end = smaller(k, begin + strip.group);
    Accumulators<kRows, kFewRowsVectors> acc;
    acc.start(nullptr, 0, false);
    for (int64_t i = begin; i < end; i += 4, w += step, ahead += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T0);
      const auto take = [&]<bool kOdd, bool kHigh>() {
        const uint8_t* codes = codes_at<kRows>(w);
        Vec::F b[kFewRowsVectors];
#pragma GCC unroll 4
        for (int j = 0; j < kFewRowsVectors; ++j) {
          b[j] = fp8_floats<kHigh>(
              fp8_words<kOdd, kNanCodes>(Vec::load_bytes(codes + 4 * j * Vec::kLanes)));
        }
        acc.step(x, b);
        x += kRows;
      };
      take.template operator()<kOddFirst, false>();
      take.template operator()<!kOddFirst, false>();
      take.template operator()<kOddFirst, true>();
      take.template operator()<!kOddFirst, true>();
    }
    Vec::F scale[kFewRowsVectors];
    for (Vec::F& s : scale) s = Vec::broadcast(strip.scales + begin / kScaleGroup);
    acc.add_scaled(scale, strip.y, strip.y_stride, strip.first && begin == 0);
  }
}

template <int kRows, bool kOddFirst>
CACHALOT_KERNEL void few_rows_fp4(const FewRowsStrip& strip) {
  const Vec::I high_table = Vec::table16(kFp4High), low_table = Vec::table16(kFp4Low);
  const int64_t k = strip.k, width = strip.width;
  const float* x = strip.x;
  const uint8_t *group = strip.w, *ahead = strip.ahead;
  for (int64_t begin = 0; begin < k; begin += 32, group += 17 * width) {
    const uint8_t* w = group + width + 4 * strip.lane;
    Accumulators<kRows, kFewRowsVectors> acc;
    acc.start(nullptr, 0, false);
    for (int run = 0; run < 4; ++run, w += 4 * width, ahead += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T0);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const auto take = [&]<int kPair>() {
          const uint8_t* codes = codes_at<kRows>(w);
          Vec::I pairs[kFewRowsVectors];
#pragma GCC unroll 4
          for (int j = 0; j < kFewRowsVectors; ++j) {
            const Vec::I bytes = Vec::load_bytes(codes + 4 * j * Vec::kLanes);
            Vec::I both[2];
            decode_fp4_pairs(half == 0 ? bytes : Vec::shift_right_16(bytes, 4), high_table,
                             low_table, both);
            pairs[j] = both[kPair];
          }
          Vec::F b[kFewRowsVectors];
#pragma GCC unroll 4
          for (int j = 0; j < kFewRowsVectors; ++j) b[j] = first_of_pairs<kOddFirst>(pairs[j]);
          acc.step(x, b);
#pragma GCC unroll 4
          for (int j = 0; j < kFewRowsVectors; ++j) b[j] = second_of_pairs<kOddFirst>(pairs[j]);
          acc.step(x + kRows, b);
          x += 2 * kRows;
        };
        take.template operator()<0>();
        take.template operator()<1>();
      }
    }
    Vec::F scale[kFewRowsVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kFewRowsVectors; ++j)
      scale[j] = decode_e8m0(group + strip.lane + j * Vec::kLanes);
    acc.add_scaled(scale, strip.y, strip.y_stride, strip.first && begin == 0);
  }
}

template <int kRows, bool kOddFirst>
void few_rows_strip(const PanelTask& t, const FewRowsStrip& strip) {
  if (t.format == WeightFormat::fp4) {
    few_rows_fp4<kRows, kOddFirst>(strip);
  } else if (t.has_nan_codes) {
    few_rows_fp8<kRows, kOddFirst, true>(strip);
  } else {
    few_rows_fp8<kRows, kOddFirst, false>(strip);
  }
}

template <bool kOddFirst>
void few_rows(const PanelTask& t) {
  const auto* part = reinterpret_cast<const uint8_t*>(t.panel);
  const bool fp8 = t.format == WeightFormat::fp8;
  FewRowsStrip strip{};
  strip.group = t.group;
  strip.width = t.width;
  strip.y_stride = t.y_stride;
  for (int64_t begin = 0; begin < t.k; begin += kFewRowsPass) {
    strip.k = smaller(kFewRowsPass, t.k - begin);
    strip.first = begin == 0 && !t.accumulate;
    strip.x = static_cast<const float*>(t.x) + begin * t.m;
    if (fp8) strip.scales = t.scales + begin / scale_group(WeightFormat::fp8);
    const int64_t strip_bytes = (fp8 ? strip.k : strip.k / 32 * 17) * Vec::kStripLanes;
    const uint8_t* next = part + strip_bytes / Vec::kStripLanes * t.width;
    for (strip.lane = 0; strip.lane < t.width; strip.lane += Vec::kStripLanes) {
      strip.w = fp8 ? part + 4 * strip.lane : part;
      strip.ahead = next + strip.lane / Vec::kStripLanes * strip_bytes;
      strip.y = t.y + strip.lane;
      switch (t.m) {
        case 2: few_rows_strip<2, kOddFirst>(t, strip); break;
        case 3: few_rows_strip<3, kOddFirst>(t, strip); break;
        default: few_rows_strip<4, kOddFirst>(t, strip);
      }
    }
    part = next;
  }
}

}  // namespace
}  // namespace cachalot::ops
