// Products of quantised weights on vdpbf16ps: codes go from the panel through registers into the
// chains of up to kPairRowTile rows, whatever the number of rows (docs/kernels/matmul.md).
#pragma once

#include "ops/matmul/decode_simd.h"
#include "ops/matmul/e4m3_tables.h"
#include "ops/matmul/matmul_kernels.h"
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

// Rows of x that are prepared as one tile.
constexpr int tile_rows(int rows) { return rows > kPairRowTile ? kPairRowTile : rows; }

// A register tile's part of a product: inputs [0, k) of kVectors * 16 lanes from `lane` on. x is
// [pairs][tile_rows(kRows)]; further rows lie x_gap further on. Meanwhile it asks memory for what
// lies at `ahead`.
struct QuantisedTile {
  const uint32_t* x;
  int64_t x_gap;
  int64_t k;
  int64_t group;     // fp8: inputs summed before their scale
  const uint8_t* w;  // the panel, from the first input's group on
  int64_t width;
  int64_t lane;
  const float* scales;  // fp8, from the first input's on
  float* y;             // of the tile's first lane
  int64_t y_stride;
  bool first;
  const uint8_t* ahead;
  int64_t ahead_lines;  // of the cache, for each step: up to kVectors; or 0
};

template <int kRows, int kVectors>
struct PairAccumulators {
  F v[kRows][kVectors];

  void clear() {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) v[r][j] = Vec::zero();
    }
  }
  // Two pairs of inputs for each vector. An x is broadcast once for all vectors: the asm keeps the
  // compiler from loading it again for each.
  void step(const uint32_t* x, int64_t x_gap, const I pairs[kVectors][2]) {
    constexpr int kTile = tile_rows(kRows);
#pragma GCC unroll 2
    for (int t = 0; t < 2; ++t) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        I a = broadcast_pair(x + r / kTile * x_gap + t * kTile + r % kTile);
        if constexpr (kVectors > 1) asm("" : "+v"(a));
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) v[r][j] = dot(v[r][j], a, pairs[j][t]);
      }
    }
  }
  void add_scaled(const F scale[kVectors], float* y, int64_t y_stride, bool first) const {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        float* out = y + r * y_stride + j * 16;
        Vec::store(out, Vec::fma(v[r][j], scale[j], first ? Vec::zero() : Vec::load(out)));
      }
    }
  }
};

template <int kMostLines>
inline void ask_for(const uint8_t*& p, int64_t lines) {
#pragma GCC unroll 4
  for (int i = 0; i < kMostLines; ++i) {
    if (i < lines) _mm_prefetch(reinterpret_cast<const char*>(p) + 64 * i, _MM_HINT_T0);
  }
  p += 64 * lines;
}
// What a tile asks for in all: an fp4 group's scales are a line beside those of its four steps.
inline int64_t bytes_ahead(WeightFormat format, int64_t k, int64_t lines) {
  return 64 * (format == WeightFormat::fp8 ? k / 4 * lines : k / 32 * (4 * lines + 1));
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

template <int kRows, int kVectors>
CACHALOT_KERNEL void quantised_fp8(const QuantisedTile& tile) {
  const Fp8Decoder decoder;
  const int64_t k = tile.k, group = tile.group, step_bytes = 4 * tile.width;
  const int64_t lines = tile.ahead_lines;
  const uint8_t* ahead = tile.ahead;
  const uint32_t* x = tile.x;
  const uint8_t* w = tile.w + 4 * tile.lane;
  for (int64_t begin = 0; begin < k; begin += group) {
    const int64_t end = smaller(k, begin + group);
    PairAccumulators<kRows, kVectors> acc;
    acc.clear();
    for (int64_t i = begin; i < end; i += 4, x += 2 * tile_rows(kRows), w += step_bytes) {
      ask_for<kVectors>(ahead, lines);
      I pairs[kVectors][2];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) decoder.decode(Vec::load_bytes(w + 64 * j), pairs[j]);
      acc.step(x, tile.x_gap, pairs);
    }
    F scale[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) scale[j] = Vec::broadcast(tile.scales + begin / 128);
    acc.add_scaled(scale, tile.y, tile.y_stride, tile.first && begin == 0);
  }
}

template <int kRows, int kVectors>
CACHALOT_KERNEL void quantised_fp4(const QuantisedTile& tile) {
  const I high_table = Vec::table16(kFp4High), low_table = Vec::table16(kFp4Low);
  const int64_t k = tile.k, width = tile.width, lines = tile.ahead_lines;
  const uint8_t* ahead = tile.ahead;
  const uint32_t* x = tile.x;
  const uint8_t* group = tile.w;
  for (int64_t begin = 0; begin < k; begin += 32, group += 17 * width) {
    const uint8_t* codes = group + width + 4 * tile.lane;
    ask_for<1>(ahead, smaller(lines, 1));
    PairAccumulators<kRows, kVectors> acc;
    acc.clear();
    for (int run = 0; run < 4; ++run, codes += 4 * width) {
      ask_for<kVectors>(ahead, lines);
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half, x += 2 * tile_rows(kRows)) {
        I pairs[kVectors][2];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
          const I bytes = Vec::load_bytes(reload(codes) + 64 * j);
          decode_fp4_pairs(half == 0 ? bytes : Vec::shift_right_16(bytes, 4), high_table, low_table,
                           pairs[j]);
        }
        acc.step(x, tile.x_gap, pairs);
      }
    }
    F scale[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) scale[j] = decode_e8m0(group + tile.lane + 16 * j);
    acc.add_scaled(scale, tile.y, tile.y_stride, tile.first && begin == 0);
  }
}

// Rows of a tile that takes the whole panel: 16 accumulators beside the decoder's registers.
// Larger tiles take two vectors at a time, in passes over so few inputs that the panel's part stays
// in the first-level cache for all of them.
constexpr int64_t kWholePanelRows = 4;
constexpr int64_t kQuantisedPass = 128;

template <int kRows, int kVectors>
inline void quantised(WeightFormat format, const QuantisedTile& tile) {
  format == WeightFormat::fp8 ? quantised_fp8<kRows, kVectors>(tile)
                              : quantised_fp4<kRows, kVectors>(tile);
}

template <int kRows>
inline void quantised_strip(WeightFormat format, const QuantisedTile& tile, int64_t lanes) {
  lanes >= 32 ? quantised<kRows, 2>(format, tile) : quantised<kRows, 1>(format, tile);
}

inline void quantised_rows(WeightFormat format, int64_t rows, const QuantisedTile& tile,
                           int64_t lanes) {
  switch (rows) {
    case 4: return quantised_strip<4>(format, tile, lanes);
    case 5: return quantised_strip<5>(format, tile, lanes);
    case 6: return quantised_strip<6>(format, tile, lanes);
    case 7: return quantised_strip<7>(format, tile, lanes);
    default: return quantised_strip<8>(format, tile, lanes);
  }
}

inline void quantised_panel(WeightFormat format, int64_t rows, const QuantisedTile& tile) {
  with_vectors(tile.width, [&]<int kVectors>() {
    switch (rows) {
      case 1: return quantised<1, kVectors>(format, tile);
      case 2: return quantised<2, kVectors>(format, tile);
      case 3: return quantised<3, kVectors>(format, tile);
      default: return quantised<4, kVectors>(format, tile);
    }
  });
}

void run_quantised(const PanelTask& t) {
  const auto* x = static_cast<const uint32_t*>(t.x);
  const auto* panel = reinterpret_cast<const uint8_t*>(t.panel);
  const bool fp8 = t.format == WeightFormat::fp8;
  QuantisedTile tile{.x = x,
                     .x_gap = kPairRowTile * (t.k / 2),
                     .k = t.k,
                     .group = t.group,
                     .w = panel,
                     .width = t.width,
                     .lane = 0,
                     .scales = t.scales,
                     .y = t.y,
                     .y_stride = t.y_stride,
                     .first = true,
                     .ahead = panel + kStreamAheadBytes,
                     .ahead_lines = t.width / 16};
  if (t.m <= kWholePanelRows) return quantised_panel(t.format, t.m, tile);
  const int64_t num_tiles = num_row_tiles(t.m, kPairRowTile);
  for (int64_t begin = 0; begin < t.k; begin += kQuantisedPass) {
    tile.k = smaller(kQuantisedPass, t.k - begin);
    const int64_t pass_bytes = fp8 ? tile.k * t.width : tile.k / 32 * 17 * t.width;
    tile.w = panel;
    panel += pass_bytes;
    tile.first = begin == 0;
    tile.ahead = panel;
    if (fp8) tile.scales = t.scales + begin / 128;
    for (int64_t i = 0; i < num_tiles; ++i) {
      // The next pass's part, evenly over the time that two tiles take.
      tile.ahead_lines = num_tiles == 1 ? 2 : i < 2 ? 1 : 0;
      const int64_t row = row_tile_begin(i, t.m, kPairRowTile);
      const int64_t rows = row_tile_begin(i + 1, t.m, kPairRowTile) - row;
      tile.x = x + row * (t.k / 2) + begin / 2 * rows;
      if (fp8 && t.m - row >= 2 * kPairRowTile && t.m % kPairRowTile == 0) {
        ++i;
        for (tile.lane = 0; tile.lane < t.width; tile.lane += 16) {
          tile.y = t.y + row * t.y_stride + tile.lane;
          quantised_fp8<2 * kPairRowTile, 1>(tile);
          tile.ahead += bytes_ahead(t.format, tile.k, tile.ahead_lines);
        }
        continue;
      }
      for (tile.lane = 0; tile.lane < t.width; tile.lane += 32) {
        tile.y = t.y + row * t.y_stride + tile.lane;
        quantised_rows(t.format, rows, tile, t.width - tile.lane);
        tile.ahead += bytes_ahead(t.format, tile.k, tile.ahead_lines);
      }
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
