// Products of a few rows with quantised weights on AVX2: register tiles that decode what they
// multiply, in passes over so few inputs that their part of the panel (8 KB) stays in the
// first-level cache for all strips and row tiles, while the next part is on its way
// (docs/kernels/matmul.md).
#pragma once

#include "ops/matmul/decode_simd.h"
#include "ops/matmul/matmul_kernels.h"
#include "ops/matmul/micro_simd.h"
#include "ops/matmul/tiles_simd.h"

namespace cachalot::ops {
namespace {

// From this many rows on, reading a strip out of a decoded copy beats reading it in place. AVX-512
// makes copies of quantised weights from two rows on.
constexpr bool kReadsCodes = Vec::kLanes == 8;
constexpr int64_t kTiledRows = kReadsCodes ? 24 : 1 << 30;
constexpr int64_t kTiledFp8Rows = kReadsCodes ? kTiledRows : 2;
// A tile of more rows leaves too few registers to decode in.
constexpr int64_t kTiledFp4Rows = kReadsCodes ? 5 : 2;
constexpr int64_t kCodesPass = 128;

// FP8: e4m3 moved into a float's place is the value times 2^-120, so x is multiplied by 2^120
// beforehand, where all of it is small enough for that to be finite, and so exact.
constexpr float kXFactor = 0x1p120f, kXBound = 256;

inline bool may_scale_x(WeightFormat format, int64_t m) {
  return format == WeightFormat::fp8 && m > 1 && m < kTiledFp8Rows;
}
// Where behind `count` floats of prepared x it stands whether they have been multiplied: 1 or 0.
inline int64_t is_scaled_at(int64_t count) { return (count + Vec::kLanes - 1) & -Vec::kLanes; }
inline bool has_scaled_x(const PanelTask& t) {
  return may_scale_x(t.format, t.m) &&
         static_cast<const float*>(t.x)[is_scaled_at(t.m * t.k)] == 1.0f;
}

// Multiplies prepared x by kXFactor where all of it is below kXBound.
void scale_x(float* x, int64_t count) {
  const int64_t end = is_scaled_at(count);
  while (count < end) x[count++] = 0;
  Vec::I largest = Vec::splat32(0);
  for (int64_t i = 0; i < end; i += Vec::kLanes) {
    const Vec::I magnitudes = Vec::bit_and(Vec::as_int(Vec::load(x + i)), Vec::splat32(0x7FFFFFFF));
    largest = Vec::max_u32(largest, magnitudes);
  }
  alignas(64) float magnitudes[Vec::kLanes];
  Vec::store(magnitudes, Vec::as_float(largest));
  bool fits = true;
  for (float magnitude : magnitudes) fits &= magnitude < kXBound;  // NaN does not
  x[end] = fits ? 1.0f : 0.0f;
  if (!fits) return;
  const Vec::F factor = Vec::broadcast(&kXFactor);
  for (int64_t i = 0; i < end; i += Vec::kLanes)
    Vec::store(x + i, Vec::mul(Vec::load(x + i), factor));
}

// Constants stay in memory: the tiles leave no registers for them.
struct InMemory {
  alignas(64) uint32_t lanes[16];
};
constexpr InMemory in_memory(uint32_t bits) {
  InMemory constant{};
  for (uint32_t& lane : constant.lanes) lane = bits;
  return constant;
}
constexpr InMemory kCodeBits = in_memory(0x87F00000), kHighHalves = in_memory(0xFFFF0000),
                   kLowNibbles = in_memory(0x0F0F0F0F);

// Input kInput of the four of each lane: the load puts its byte on top. NaN codes come out as 480;
// kNanCodes adds the steps that make them NaN.
template <int kInput, bool kNanCodes>
inline Vec::F code_floats(const uint8_t* w) {
  const Vec::I codes = Vec::shift_right_signed_32(Vec::load_bytes(w + kInput - 3), 4);
  const Vec::I bits = Vec::bit_and_memory(codes, kCodeBits.lanes);
  if constexpr (!kNanCodes) return Vec::as_float(bits);
  const Vec::I magnitude = Vec::bit_and(bits, Vec::splat32(0x7FFFFFFF));
  const Vec::I nan = Vec::splat32(0x07F0FFFF);  // low halves are 0, and never equal
  return Vec::as_float(Vec::bit_or(bits, Vec::all_ones_where_equal_16(magnitude, nan)));
}

// Inputs [0, k) of a strip of FP8. What is read begins up to three bytes before `first` and `rest`.
struct Fp8Strip {
  const uint8_t* first;  // codes of the first four inputs
  const uint8_t* rest;   // of the next four, and so on every `step` bytes
  int64_t step;
  int64_t k;
  int64_t group;  // inputs that are summed before their scale
  const float* scale;
};

constexpr int kAheadPerStep = 2;  // lines asked for per four inputs

template <int kRows, int kVectors, bool kOddFirst, bool kNanCodes>
CACHALOT_KERNEL void micro_fp8(const Fp8Strip& strip, const float* x, float* y, int64_t y_stride,
                               bool first, Ahead ahead) {
  const int64_t k = strip.k, step = strip.step;
  const uint8_t *w = strip.first, *rest = strip.rest;
  const auto* ask = static_cast<const char*>(ahead.first);
  for (int64_t begin = 0; begin < k; begin += strip.group, first = false) {
    const int64_t end = smaller(k, begin + strip.group);
    Accumulators<kRows, kVectors> acc;
    acc.start(nullptr, 0, false);
    for (int64_t i = begin; i < end; i += 4, w = rest, rest += step) {
#pragma GCC unroll 2
      for (int line = 0; line < kAheadPerStep; ++line, ask += ahead.step_bytes)
        _mm_prefetch(ask, _MM_HINT_T0);
      const auto take = [&]<int kInput>() {
        Vec::F b[kVectors];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j)
          b[j] = code_floats<kInput, kNanCodes>(w + 4 * j * Vec::kLanes);
        acc.step(x, b);
        x += kRows;
      };
      take.template operator()<kOddFirst ? 1 : 0>();
      take.template operator()<kOddFirst ? 0 : 1>();
      take.template operator()<kOddFirst ? 3 : 2>();
      take.template operator()<kOddFirst ? 2 : 3>();
    }
    Vec::F scale[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) scale[j] = Vec::broadcast(strip.scale);
    acc.add_scaled(scale, y, y_stride, first);
  }
}

// Lanes of the next strip: two rows alone have too few chains in one of two vectors.
inline int64_t codes_lanes(int64_t m, int64_t lanes_left) {
  return m == 2 && lanes_left >= 2 * Vec::kStripLanes ? 2 * Vec::kStripLanes : Vec::kStripLanes;
}
template <typename Fn>
inline void each_codes_tile(int64_t m, int64_t lanes, Fn fn) {
  if (lanes > Vec::kStripLanes) {
    fn.template operator()<2, 2 * Vec::kStripLanes / Vec::kLanes>(0);
  } else {
    each_row_tile(m, lanes, fn);
  }
}

template <bool kOddFirst, bool kNanCodes>
void codes_fp8(const PanelTask& t) {
  const int64_t k = t.k, width = t.width;
  const auto* x = static_cast<const float*>(t.x);
  const auto* part = reinterpret_cast<const uint8_t*>(t.panel);
  // Nothing may lie before a panel: its first codes are read from a copy.
  uint8_t copy[64 + 4 * PackedWeight::kPanelWidth];
  __builtin_memcpy(copy + 64, part, static_cast<size_t>(4 * width));
  Fp8Strip strip{};
  strip.step = 4 * width;
  strip.group = t.group;
  for (int64_t begin = 0; begin < k; begin += kCodesPass) {
    strip.k = smaller(kCodesPass, k - begin);
    strip.scale = t.scales + begin / scale_group(WeightFormat::fp8);
    const uint8_t* first = begin == 0 ? copy + 64 : part;
    const uint8_t* rest = part + 4 * width;
    part += strip.k * width;
    for (int64_t lane = 0, lanes; lane < width; lane += lanes) {
      lanes = codes_lanes(t.m, width - lane);
      strip.first = first + 4 * lane;
      strip.rest = rest + 4 * lane;
      const Ahead next_codes{part + strip.k * lane, 4 * lanes / kAheadPerStep};
      each_codes_tile(t.m, lanes, [&]<int kRows, int kVectors>(int64_t row) {
        const float* rows = x + row * k + begin * kRows;
        // The first row tile asks memory for the strip's share of the next pass, the others, as the
        // first strip finds x far away, for the next one's part of x.
        const Ahead next = row == 0    ? next_codes
                           : lane == 0 ? Ahead{rows + k * kRows, 4 * kRows * 4 / kAheadPerStep}
                                       : Ahead{rows, 0};
        micro_fp8<kRows, kVectors, kOddFirst, kNanCodes>(strip, rows, t.y + row * t.y_stride + lane,
                                                         t.y_stride, begin == 0 && !t.accumulate,
                                                         next);
      });
    }
  }
}

// As one_of_pairs(). Beside so many multiply-adds a shift is cheaper than a multiplication.
template <bool kOdd>
inline Vec::F one_float(Vec::I pairs) {
  return kOdd ? Vec::as_float(Vec::bit_and_memory(pairs, kHighHalves.lanes))
              : Vec::as_float(Vec::shift_left_32(pairs, 16));
}
// As decode_fp4_pairs().
inline void fp4_pairs(Vec::I codes, Vec::I pairs[2]) {
  const Vec::I idx = Vec::bit_and_memory(codes, kLowNibbles.lanes);
  const Vec::I high = Vec::lookup_in_memory(kFp4High, idx);
  const Vec::I low = Vec::lookup_in_memory(kFp4Low, idx);
  pairs[0] = Vec::unpack_low_8(low, high);
  pairs[1] = Vec::unpack_high_8(low, high);
}

// Inputs [0, k) of a strip of FP4.
struct Fp4Strip {
  const uint8_t* w;  // the first group, of all lanes
  int64_t width;
  int64_t lane;  // the strip's first
  int64_t k;
};

// A half of two octets at a time, four inputs of each: pairs of both vectors, and from them floats.
template <int kRows, int kVectors, bool kOddFirst>
CACHALOT_KERNEL void micro_fp4(const Fp4Strip& strip, const float* x, float* y, int64_t y_stride,
                               bool first, Ahead ahead) {
  const int64_t k = strip.k, width = strip.width, lane = strip.lane;
  const uint8_t* group = strip.w;
  const auto* ask = static_cast<const char*>(ahead.first);
  for (int64_t begin = 0; begin < k; begin += 32, group += 17 * width, first = false) {
    const uint8_t* w = group + width + 4 * lane;
    Accumulators<kRows, kVectors> acc;
    acc.start(nullptr, 0, false);
    for (int run = 0; run < 4; ++run, w += 4 * width) {
      const auto take = [&]<int kHalf, int kFirst>() {
        Vec::I pairs[2][2];
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
          const Vec::I codes = Vec::load_bytes(w + 4 * (kFirst + j) * Vec::kLanes);
          fp4_pairs(kHalf == 0 ? codes : Vec::shift_right_16(codes, 4), pairs[j]);
        }
#pragma GCC unroll 2
        for (int p = 0; p < 2; ++p) {
          const float* a = x + (4 * kHalf + 2 * p) * kRows;
          Vec::F b[2];
#pragma GCC unroll 2
          for (int j = 0; j < 2; ++j) b[j] = one_float<kOddFirst>(pairs[j][p]);
          acc.template step<kFirst, 2>(a, b);
#pragma GCC unroll 2
          for (int j = 0; j < 2; ++j) b[j] = one_float<!kOddFirst>(pairs[j][p]);
          acc.template step<kFirst, 2>(a + kRows, b);
        }
      };
#pragma GCC unroll 2
      for (int line = 0; line < kAheadPerStep; ++line, ask += ahead.step_bytes)
        _mm_prefetch(ask, _MM_HINT_T0);
      take.template operator()<0, 0>();
      if constexpr (kVectors == 4) take.template operator()<0, 2>();
      take.template operator()<1, 0>();
      if constexpr (kVectors == 4) take.template operator()<1, 2>();
      x += 8 * kRows;
    }
    Vec::F scale[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) scale[j] = decode_e8m0(group + lane + j * Vec::kLanes);
    acc.add_scaled(scale, y, y_stride, first);
  }
}

template <bool kOddFirst>
void codes_fp4(const PanelTask& t) {
  const int64_t width = t.width;
  const auto* x = static_cast<const float*>(t.x);
  Fp4Strip strip{};
  strip.w = reinterpret_cast<const uint8_t*>(t.panel);
  strip.width = width;
  for (int64_t begin = 0; begin < t.k; begin += kCodesPass) {
    strip.k = smaller(kCodesPass, t.k - begin);
    const int64_t lane_bytes = strip.k / 32 * 17;
    const uint8_t* next = strip.w + lane_bytes * width;
    int64_t lanes = 0;
    for (strip.lane = 0; strip.lane < width; strip.lane += lanes) {
      lanes = codes_lanes(t.m, width - strip.lane);
      const Ahead ahead{next + lane_bytes * strip.lane, 17 * lanes / 4 / kAheadPerStep};
      each_codes_tile(t.m, lanes, [&]<int kRows, int kVectors>(int64_t) {
        if constexpr (kRows < kTiledFp4Rows)
          micro_fp4<kRows, kVectors, kOddFirst>(strip, x + begin * kRows, t.y + strip.lane,
                                                t.y_stride, begin == 0 && !t.accumulate, ahead);
      });
    }
    strip.w = next;
  }
}

}  // namespace
}  // namespace cachalot::ops
