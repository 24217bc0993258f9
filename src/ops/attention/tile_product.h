// Products of rows with a panel, c[r][lane] (+)= sum over k of a(r, k) * b(k)[lane]: what scores,
// values and index scores are made of. One fma chain an output, k ascending; in pairs, the odd k of
// a pair before the even one, an odd count padded with zero (the order of ops/matmul). Which rows
// and lanes share a register tile changes no bit. Included after vector_<isa>.h by kernels of that
// instruction set.
#pragma once

#include <cstdint>

namespace cachalot::ops {
namespace {

inline constexpr int kTileRows = 6;
inline constexpr int64_t kTileLanes = Vec::kTileRegs * Vec::kLanes;

template <int kRows, int kRegs, bool kPairs, typename A, typename B>
[[gnu::always_inline]] inline void product_tile(int64_t num_k, const A& a, const B& b, float* c,
                                                int64_t c_stride, bool accumulate) {
  Vec::Reg acc[kRows][kRegs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kRegs; ++v) {
      acc[r][v] = accumulate ? Vec::load(c + r * c_stride + v * Vec::kLanes) : Vec::zero();
    }
  }
  const auto step = [&](int64_t k) __attribute__((always_inline)) {
    const float* row = b(k);
    Vec::Reg panel[kRegs];
#pragma GCC unroll 8
    for (int v = 0; v < kRegs; ++v) panel[v] = Vec::load(row + v * Vec::kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec::Reg x = Vec::set1(a(r, k));
#pragma GCC unroll 8
      for (int v = 0; v < kRegs; ++v) acc[r][v] = Vec::fma(x, panel[v], acc[r][v]);
    }
  };
  if constexpr (kPairs) {
    int64_t k = 0;
    for (; k + 1 < num_k; k += 2) {
      step(k + 1);
      step(k);
    }
    if (k < num_k) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int v = 0; v < kRegs; ++v) acc[r][v] = Vec::add(acc[r][v], Vec::zero());
      }
      step(k);
    }
  } else {
    for (int64_t k = 0; k < num_k; ++k) step(k);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kRegs; ++v) {
      Vec::store(c + r * c_stride + v * Vec::kLanes, acc[r][v]);
    }
  }
}

template <int kRegs, bool kPairs, typename A, typename B>
inline void product_rows(int64_t num_rows, int64_t num_k, const A& a, const B& b, float* c,
                         int64_t c_stride, bool accumulate) {
  for (int64_t r = 0; r < num_rows;) {
    const int64_t left = num_rows - r;
    // 7 and 8 rows as 4 and the rest: two tiles of nearly equal height keep more chains in flight
    // than 6 and 1 or 2.
    const int64_t take = left == 7 || left == 8 ? 4 : left < kTileRows ? left : kTileRows;
    const auto rows_from = [&](int i, int64_t k) __attribute__((always_inline)) {
      return a(r + i, k);
    };
    float* out = c + r * c_stride;
    switch (take) {
      case 1: product_tile<1, kRegs, kPairs>(num_k, rows_from, b, out, c_stride, accumulate); break;
      case 2: product_tile<2, kRegs, kPairs>(num_k, rows_from, b, out, c_stride, accumulate); break;
      case 3: product_tile<3, kRegs, kPairs>(num_k, rows_from, b, out, c_stride, accumulate); break;
      case 4: product_tile<4, kRegs, kPairs>(num_k, rows_from, b, out, c_stride, accumulate); break;
      case 5: product_tile<5, kRegs, kPairs>(num_k, rows_from, b, out, c_stride, accumulate); break;
      default: product_tile<6, kRegs, kPairs>(num_k, rows_from, b, out, c_stride, accumulate);
    }
    r += take;
  }
}

// lanes: a multiple of Vec::kLanes, at most kTileLanes.
template <bool kPairs, typename A, typename B>
inline void product_lanes(int64_t num_rows, int64_t lanes, int64_t num_k, const A& a, const B& b,
                          float* c, int64_t c_stride, bool accumulate) {
  switch (lanes / Vec::kLanes) {
    case 1: return product_rows<1, kPairs>(num_rows, num_k, a, b, c, c_stride, accumulate);
    case 2: return product_rows<2, kPairs>(num_rows, num_k, a, b, c, c_stride, accumulate);
    default:
      if constexpr (Vec::kTileRegs > 2) {
        if (lanes / Vec::kLanes == 3) {
          return product_rows<3, kPairs>(num_rows, num_k, a, b, c, c_stride, accumulate);
        }
        return product_rows<4, kPairs>(num_rows, num_k, a, b, c, c_stride, accumulate);
      }
  }
}

}  // namespace
}  // namespace cachalot::ops
