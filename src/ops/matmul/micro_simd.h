// Register tiles over float lanes: kRows rows of prepared x against kVectors vectors of outputs.
// Accumulators live in registers; between calls a chain waits in y, which changes no bit.
// x is [k][kRows] in the order of the chain (bf16 math: the odd input of each pair first).
#pragma once

#include <cstdint>

#include "ops/matmul/decode_simd.h"
#include "ops/matmul/tiles_simd.h"
#include "ops/matmul/vec.h"

namespace cachalot::ops {
namespace {

template <int kRows, int kVectors>
struct Accumulators {
  Vec::F v[kRows][kVectors];

  void start(const float* y, int64_t y_stride, bool from_y) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        v[r][j] = from_y ? Vec::load(y + r * y_stride + j * Vec::kLanes) : Vec::zero();
      }
    }
  }
  // With the weights of kCount vectors from kFirst on.
  template <int kFirst = 0, int kCount = kVectors>
  void step(const float* x, const Vec::F* w) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec::F a = Vec::broadcast(x + r);
#pragma GCC unroll 8
      for (int j = 0; j < kCount; ++j) v[r][kFirst + j] = Vec::fma(a, w[j], v[r][kFirst + j]);
    }
  }
  // y = fma(chain, scale, y), y starting as 0 where `first`.
  void add_scaled(const Vec::F* scale, float* y, int64_t y_stride, bool first) const {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        float* out = y + r * y_stride + j * Vec::kLanes;
        Vec::store(out, Vec::fma(v[r][j], scale[j], first ? Vec::zero() : Vec::load(out)));
      }
    }
  }
  void store(float* y, int64_t y_stride) const {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) Vec::store(y + r * y_stride + j * Vec::kLanes, v[r][j]);
    }
  }
};

// Weights are floats, `stride` apart from input to input.
template <int kRows, int kVectors, bool kAhead>
CACHALOT_KERNEL void micro_f32(const float* x, int64_t k, const float* w, int64_t stride, float* y,
                               int64_t y_stride, bool from_y, Ahead ahead) {
  Accumulators<kRows, kVectors> acc;
  acc.start(y, y_stride, from_y);
  for (int64_t i = 0; i < k; ++i, x += kRows, w += stride) {
    prefetch<kAhead>(ahead, i);
    Vec::F b[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) b[j] = Vec::load(w + j * Vec::kLanes);
    acc.step(x, b);
  }
  acc.store(y, y_stride);
}

// Weights are bf16 pairs, `stride` pairs apart; k is even.
template <int kRows, int kVectors, bool kOddFirst, bool kAhead>
CACHALOT_KERNEL void micro_bf16(const float* x, int64_t k, const uint16_t* w, int64_t stride,
                                float* y, int64_t y_stride, bool from_y, Ahead ahead) {
  Accumulators<kRows, kVectors> acc;
  acc.start(y, y_stride, from_y);
  for (int64_t i = 0; i < k; i += 2, x += 2 * kRows, w += 2 * stride) {
    prefetch<kAhead>(ahead, i / 2);
    Vec::F b[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j)
      b[j] = first_of_pairs<kOddFirst>(Vec::load_bytes(w + 2 * j * Vec::kLanes));
    acc.step(x, b);
    const uint16_t* again = reload(w);
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j)
      b[j] = second_of_pairs<kOddFirst>(Vec::load_bytes(again + 2 * j * Vec::kLanes));
    acc.step(x + kRows, b);
  }
  acc.store(y, y_stride);
}

// Groups of inputs with a scale per output each: y = fma(group's chain, scale, y). scales
// [groups][kPanelWidth]; the last group may be short. With `first`, y starts as 0.
template <int kRows, int kVectors, bool kAhead>
CACHALOT_KERNEL void micro_groups(const float* x, int64_t k, int64_t group, const float* w,
                                  int64_t stride, float* y, int64_t y_stride, const float* scales,
                                  bool first, Ahead ahead) {
  for (int64_t begin = 0; begin < k;
       begin += group, scales += PackedWeight::kPanelWidth, first = false) {
    const int64_t end = begin + group < k ? begin + group : k;
    Accumulators<kRows, kVectors> acc;
    acc.start(nullptr, 0, false);
    for (int64_t i = begin; i < end; ++i, x += kRows, w += stride) {
      prefetch<kAhead>(ahead, i);
      Vec::F b[kVectors];
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) b[j] = Vec::load(w + j * Vec::kLanes);
      acc.step(x, b);
    }
    Vec::F scale[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) scale[j] = Vec::load(scales + j * Vec::kLanes);
    acc.add_scaled(scale, y, y_stride, first);
  }
}

// One row against a whole panel of bf16 pairs; y continues the chain with from_y.
template <int kVectors, bool kOddFirst>
CACHALOT_KERNEL void one_row_bf16(const float* x, int64_t k, const uint16_t* w, float* y,
                                  bool from_y) {
  Accumulators<1, kVectors> acc;
  acc.start(y, 0, from_y);
  for (int64_t i = 0; i < k; i += 2, x += 2, w += 2 * kVectors * Vec::kLanes) {
    const Vec::F a0 = Vec::broadcast(x), a1 = Vec::broadcast(x + 1);
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      const Vec::I pairs = Vec::load_bytes(w + 2 * j * Vec::kLanes);
      acc.v[0][j] = Vec::fma(a0, first_of_pairs<kOddFirst>(pairs), acc.v[0][j]);
      acc.v[0][j] = Vec::fma(a1, second_of_pairs<kOddFirst>(pairs), acc.v[0][j]);
    }
  }
  acc.store(y, 0);
}

// One row against a whole panel, decoding in registers. x holds Vec::kXCopies of every input.
template <int kVectors, bool kOddFirst, bool kNanCodes>
CACHALOT_KERNEL void one_row_fp8(const float* x, int64_t k, int64_t group, const uint8_t* w,
                                 const float* scales, float* y, bool from_y) {
  constexpr int64_t kScaleGroup = scale_group(WeightFormat::fp8);
  for (int64_t begin = 0; begin < k; begin += group) {
    const int64_t end = begin + group < k ? begin + group : k;
    Vec::F acc[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) acc[j] = Vec::zero();
    for (int64_t i = begin; i < end; i += 4, x += 4 * Vec::kXCopies) {
      prefetch_stream<4 * kVectors * Vec::kLanes>(w);
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j, w += 4 * Vec::kLanes) {
        Vec::F b[4];
        decode_fp8<kOddFirst, kNanCodes>(Vec::load_bytes(w), b);
        const float* a = reload(x);
#pragma GCC unroll 4
        for (int t = 0; t < 4; ++t)
          acc[j] = Vec::fma(Vec::load_copies(a + t * Vec::kXCopies), b[t], acc[j]);
      }
    }
    const Vec::F scale = Vec::broadcast(scales + begin / kScaleGroup);
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      const Vec::F total = begin > 0 || from_y ? Vec::load(y + j * Vec::kLanes) : Vec::zero();
      Vec::store(y + j * Vec::kLanes, Vec::fma(acc[j], scale, total));
    }
  }
}

template <int kVectors, bool kOddFirst>
CACHALOT_KERNEL void one_row_fp4(const float* x, int64_t k, const uint8_t* w, float* y,
                                 bool from_y) {
  const Vec::I high_table = Vec::table16(kFp4High), low_table = Vec::table16(kFp4Low);
  for (int64_t begin = 0; begin < k; begin += 32) {
    const uint8_t* scales = w;
    w += kVectors * Vec::kLanes;
    Vec::F acc[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) acc[j] = Vec::zero();
    // Low nibbles of all octets, then high ones: four steps of a chain at a time, so that the eight
    // chains overlap within the processor's window.
    for (int run = 0; run < 4; ++run, w += 4 * kVectors * Vec::kLanes) {
      prefetch_stream<4 * kVectors * Vec::kLanes>(w);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half, x += 4 * Vec::kXCopies) {
#pragma GCC unroll 8
        for (int j = 0; j < kVectors; ++j) {
          const float* a = reload(x);
          const Vec::I codes = Vec::load_bytes(reload(w) + 4 * j * Vec::kLanes);
          Vec::I pairs[2];
          decode_fp4_pairs(half == 0 ? codes : Vec::shift_right_16(codes, 4), high_table, low_table,
                           pairs);
#pragma GCC unroll 2
          for (int t = 0; t < 2; ++t, a += 2 * Vec::kXCopies) {
            acc[j] = Vec::fma(Vec::load_copies(a), first_of_pairs<kOddFirst>(pairs[t]), acc[j]);
            acc[j] = Vec::fma(Vec::load_copies(a + Vec::kXCopies),
                              second_of_pairs<kOddFirst>(pairs[t]), acc[j]);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      const Vec::F total = begin > 0 || from_y ? Vec::load(y + j * Vec::kLanes) : Vec::zero();
      Vec::store(y + j * Vec::kLanes,
                 Vec::fma(acc[j], decode_e8m0(scales + j * Vec::kLanes), total));
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
