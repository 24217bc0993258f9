// What the register tiles share: prefetching, and the way from run-time row and lane counts to
// their template arguments.
#pragma once

#include <cstdint>

#include "ops/matmul/prepare_simd.h"
#include "ops/matmul/vec.h"

namespace cachalot::ops {
namespace {

// Each kernel is a function of its own: inlined into its callers' loops, the compiler spills
// accumulators.
#define CACHALOT_KERNEL __attribute__((noinline))

// Makes the compiler forget what it knows about a pointer, so that it loads again instead of
// keeping (and spilling) registers.
template <typename T>
inline const T* reload(const T* p) {
  asm volatile("" : "+r"(p));
  return p;
}

// What to ask memory for while computing: a cache line for every step of the loop.
struct Ahead {
  const void* first = nullptr;
  int64_t step_bytes = 0;
};

template <bool kAhead>
inline void prefetch(const Ahead& ahead, int64_t i) {
  if constexpr (kAhead)
    _mm_prefetch(static_cast<const char*>(ahead.first) + i * ahead.step_bytes, _MM_HINT_T0);
}

// One row reads a panel once, in order: it asks for what comes two kilobytes later (Zen 3: FP4 and
// FP8 15 to 20 percent faster, bf16 and f32 no faster).
constexpr int kStreamAheadBytes = 2176;
template <int kBytes>
inline void prefetch_stream(const void* p) {
#pragma GCC unroll 8
  for (int line = 0; line < kBytes; line += 64) {
    _mm_prefetch(static_cast<const char*>(p) + kStreamAheadBytes + line, _MM_HINT_T0);
  }
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Lanes of one register tile in a panel of this width.
inline int64_t strip_lanes(int64_t width) { return smaller(width, Vec::kStripLanes); }

// Calls fn.operator()<vectors>() for a whole panel of `lanes`.
template <typename Fn>
inline void with_vectors(int64_t lanes, Fn fn) {
  if constexpr (Vec::kLanes == 8) {
    switch (lanes) {
      case 16: return fn.template operator()<2>();
      case 32: return fn.template operator()<4>();
      case 48: return fn.template operator()<6>();
      default: return fn.template operator()<8>();
    }
  } else {
    switch (lanes) {
      case 16: return fn.template operator()<1>();
      case 32: return fn.template operator()<2>();
      case 48: return fn.template operator()<3>();
      default: return fn.template operator()<4>();
    }
  }
}

// The same for a strip.
template <typename Fn>
inline void with_strip_vectors(int64_t lanes, Fn fn) {
  if constexpr (Vec::kLanes == 8) {
    fn.template operator()<2>();
  } else {
    with_vectors(lanes, fn);
  }
}

template <typename Fn>
inline void with_rows(int64_t rows, Fn fn) {
  switch (rows) {
    case 1: return fn.template operator()<1>();
    case 2: return fn.template operator()<2>();
    case 3: return fn.template operator()<3>();
    case 4: return fn.template operator()<4>();
    case 5: return fn.template operator()<5>();
    default: return fn.template operator()<6>();
  }
}

// While a pass over a panel computes, it asks memory for the next one, where few rows leave the
// memory idle otherwise: each strip for its own lines, or, where a strip has four, each row tile
// for one of them.
constexpr int64_t kPrefetchedRows = 3 * kRowTile;

inline bool prefetches(int64_t row) { return Vec::kStripLanes == 64 || row == 0; }
inline Ahead next_pass(const void* next, int64_t width, int64_t row) {
  const int64_t line = Vec::kStripLanes == 64 ? (row + kRowTile - 1) / kRowTile : 0;
  return {static_cast<const char*>(next) + line * 64, width * 4};
}

// Where many row tiles take turns, a tile's part of x comes from far away: each asks for the next
// one's, `elements` of four bytes apart from row to row of the tile.
template <int kRows>
inline Ahead next_row_tile(const void* rows, int64_t elements) {
  return {static_cast<const char*>(rows) + elements * kRows * 4, kRows * 4};
}

// Calls fn.operator()<rows, vectors>(first row) for each row tile, for a strip of `lanes`.
template <typename Fn>
inline void each_row_tile(int64_t m, int64_t lanes, Fn fn) {
  for (int64_t tile = 0; tile < num_row_tiles(m); ++tile) {
    const int64_t begin = row_tile_begin(tile, m);
    with_rows(row_tile_begin(tile + 1, m) - begin, [&]<int kRows>() {
      with_strip_vectors(lanes,
                         [&]<int kVectors>() { fn.template operator()<kRows, kVectors>(begin); });
    });
  }
}

}  // namespace
}  // namespace cachalot::ops
