// The tiles of newton_schulz_kernels.h over F32x16 (elementwise/f32x16_*.h, included before this
// file). The including file defines kNsVectors, the vectors of a register tile: 6 rows x 4 vectors
// where there are 32 registers of sixteen floats, 6 x 1 (as two halves each) where there are 16 of
// eight.
#pragma once

#include "ops/attention/transpose_avx2.h"
#include "ops/optim/newton_schulz_kernels.h"

namespace cachalot::ops {
namespace {

constexpr int kNsRows = 6;
// Two operands of 128 x 64 floats stay in a second-level cache, one of them mostly in the first.
constexpr int64_t kNsDepth = 128;

struct NsMicro {
  const float* a;  // a(r, k): kGram: a[k * a_stride + r]; else a[r * a_stride + k]
  int64_t a_stride;
  int64_t a_segment;  // floats between the a of k = 0, 64, 128, ...
  const float* b;     // b(k, lane): b[k * b_stride + lane]
  int64_t b_stride;
  int64_t width;  // of c
  int64_t k;
  float* c;
  bool from_c;  // else the chains start from 0
};

template <bool kGram, int kRows, int kVectors>
void ns_micro(const NsMicro& t) {
  const int64_t a_row = kGram ? 1 : t.a_stride;
  const int64_t a_k = kGram ? t.a_stride : 1;
  const int64_t width = t.width;
  F32x16 acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      acc[r][v] = t.from_c ? load(t.c + r * width + 16 * v) : splat(0.0f);
    }
  }
  const float* b = t.b;
  for (int64_t k0 = 0; k0 < t.k; k0 += kNsTile) {
    const float* a = t.a + k0 / kNsTile * t.a_segment;
    const int64_t left = t.k - k0 < kNsTile ? t.k - k0 : kNsTile;
    for (int64_t k = 0; k < left; ++k, a += a_k, b += t.b_stride) {
      F32x16 lanes[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) lanes[v] = load(b + 16 * v);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const F32x16 value = splat(a[r * a_row]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) acc[r][v] = fma(value, lanes[v], acc[r][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store(t.c + r * width + 16 * v, acc[r][v]);
  }
}

template <int kVectors>
constexpr int kNsUpTo = kVectors < kNsVectors ? kVectors : kNsVectors;

template <bool kGram, int kRows>
void ns_micro_of_vectors(const NsMicro& t, int64_t vectors) {
  switch (vectors) {
    case 1: return ns_micro<kGram, kRows, kNsUpTo<1>>(t);
    case 2: return ns_micro<kGram, kRows, kNsUpTo<2>>(t);
    case 3: return ns_micro<kGram, kRows, kNsUpTo<3>>(t);
    default: return ns_micro<kGram, kRows, kNsUpTo<4>>(t);
  }
}

template <bool kGram>
void ns_micro_of_rows(const NsMicro& t, int64_t rows, int64_t vectors) {
  switch (rows) {
    case 1: return ns_micro_of_vectors<kGram, 1>(t, vectors);
    case 2: return ns_micro_of_vectors<kGram, 2>(t, vectors);
    case 3: return ns_micro_of_vectors<kGram, 3>(t, vectors);
    case 4: return ns_micro_of_vectors<kGram, 4>(t, vectors);
    case 5: return ns_micro_of_vectors<kGram, 5>(t, vectors);
    default: return ns_micro_of_vectors<kGram, 6>(t, vectors);
  }
}

// The first vector of a row that a symmetric tile needs: those left of the diagonal come from the
// mirror.
int64_t ns_first_vector(bool diagonal, int64_t row) { return diagonal ? row / 16 : 0; }

// All register tiles of `rows` rows (at most 64) and t.width columns.
template <bool kGram>
void ns_tile(const NsMicro& t, int64_t rows, bool diagonal) {
  const int64_t num_vectors = t.width / 16;
  // Where a register tile is narrower than the panel, its part of b is copied together: strided by
  // a panel's width its lines would share a quarter of the first-level cache's sets.
  alignas(64) float strip[kNsVectors < 4 ? 16 * kNsVectors * kNsDepth : 1];
  for (int64_t v = 0; v < num_vectors; v += kNsVectors) {
    const int64_t vectors = num_vectors - v < kNsVectors ? num_vectors - v : kNsVectors;
    NsMicro micro = t;
    if (kNsVectors < 4 && vectors < num_vectors) {
      for (int64_t k = 0; k < t.k; ++k) {
        for (int64_t i = 0; i < 16 * vectors; i += 16)
          store(strip + 16 * vectors * k + i, load(t.b + k * t.width + 16 * v + i));
      }
      micro.b = strip;
      micro.b_stride = 16 * vectors;
    } else {
      micro.b += 16 * v;
    }
    for (int64_t r = 0; r < rows; r += kNsRows) {
      const int64_t skipped = ns_first_vector(diagonal, r) - v;
      if (skipped >= vectors) break;
      const int64_t first = skipped > 0 ? skipped : 0;
      NsMicro tile = micro;
      tile.a += r * (kGram ? 1 : t.a_stride);
      tile.b += 16 * first;
      tile.c += r * t.width + 16 * (v + first);
      ns_micro_of_rows<kGram>(tile, rows - r < kNsRows ? rows - r : kNsRows, vectors - first);
    }
  }
}

// to[j][i] = from[i][j] for i < rows, j < columns (on the diagonal only j > i, where `to` is
// `from`).
void ns_mirror(const float* from, int64_t from_width, int64_t rows, int64_t columns, bool diagonal,
               float* to, int64_t to_width) {
  if (!diagonal) return transpose(from, from_width, rows, columns, rows, to, to_width);
  for (int64_t i0 = 0; i0 < rows; i0 += 8) {
    const int64_t i_end = rows - i0 < 8 ? rows : i0 + 8;
    int64_t whole = i0 + 8;  // columns from here on are mirrored in whole blocks
    for (int64_t i = i0; i < i_end; ++i) {
      for (int64_t j = i + 1; j < columns && j < whole; ++j)
        to[j * to_width + i] = from[i * from_width + j];
    }
    for (; whole + 8 <= columns; whole += 8) {
      transpose_8x8(from + i0 * from_width + whole, from_width, to + whole * to_width + i0,
                    to_width);
    }
    for (int64_t i = i0; i < i_end; ++i) {
      for (int64_t j = whole; j < columns; ++j) to[j * to_width + i] = from[i * from_width + j];
    }
  }
}

void ns_gram_simd(const NsGramTile& t) {
  const int64_t i_width = ns_panel_width(t.n, t.i), j_width = ns_panel_width(t.n, t.j);
  const int64_t i_first = t.i * kNsTile, j_first = t.j * kNsTile;
  const int64_t rows = t.n - i_first < kNsTile ? t.n - i_first : kNsTile;
  const int64_t columns = t.n - j_first < kNsTile ? t.n - j_first : kNsTile;
  const bool diagonal = t.i == t.j;
  const float* x_i = t.x + i_first * t.k;
  const float* x_j = t.x + j_first * t.k;
  float* out = t.out + j_first * t.n + i_first * j_width;
  for (int64_t k0 = 0; k0 < t.k; k0 += kNsDepth) {
    const int64_t k = t.k - k0 < kNsDepth ? t.k - k0 : kNsDepth;
    ns_tile<true>({x_i + k0 * i_width, i_width, kNsTile * i_width, x_j + k0 * j_width, j_width,
                   j_width, k, out, k0 > 0},
                  rows, diagonal);
  }
  if (t.combines || t.round) {
    const float* same = x_j + i_first * j_width;  // x has the layout of out
    const F32x16 b = splat(t.b), c = splat(t.c);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t v = 16 * ns_first_vector(diagonal, r / kNsRows * kNsRows); v < j_width;
           v += 16) {
        float* at = out + r * j_width + v;
        F32x16 value = load(at);
        if (t.combines) value = fma(c, value, b * load(same + r * j_width + v));
        store(at, t.round ? round_to_bf16(value) : value);
      }
    }
  }
  ns_mirror(out, j_width, rows, columns, diagonal, t.out + i_first * t.n + j_first * i_width,
            i_width);
}

void ns_apply_simd(const NsApplyTile& t) {
  const int64_t width = ns_panel_width(t.n, t.j);
  const int64_t first = t.block * kNsTile;
  const int64_t rows = t.m - first < kNsTile ? t.m - first : kNsTile;
  const int64_t offset = t.j * kNsTile * t.m + first * width;
  float* out = t.out + offset;
  const F32x16 a = splat(t.a);
  for (int64_t i = 0; i < rows * width; i += 16) store(out + i, a * load(t.z + offset + i));

  const float* s = t.s + t.j * kNsTile * t.n;
  for (int64_t k0 = 0; k0 < t.n;) {
    // Whole panels of z share a width; a narrow last one comes alone.
    const int64_t z_width = ns_panel_width(t.n, k0 / kNsTile);
    const int64_t whole = (t.n - k0) / kNsTile * kNsTile;
    const int64_t k = whole == 0 ? t.n - k0 : whole < kNsDepth ? whole : kNsDepth;
    ns_tile<false>({t.z + k0 * t.m + first * z_width, z_width, kNsTile * t.m, s + k0 * width, width,
                    width, k, out, true},
                   rows, false);
    k0 += k;
  }
  if (!t.round) return;
  for (int64_t i = 0; i < rows * width; i += 16) store(out + i, round_to_bf16(load(out + i)));
}

}  // namespace
}  // namespace cachalot::ops
