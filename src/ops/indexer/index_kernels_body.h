// The text of index_kernels.h, compiled once per instruction set: included after vector_<isa>.h.
#pragma once

#include "ops/attention/tile_product.h"
#include "ops/attention/transpose_avx2.h"
#include "ops/indexer/index_kernels.h"
#include "ops/matmul/flush_denormals.h"

namespace cachalot::ops {
namespace {

// Keys side by side in a panel: as many as a tile of few rows takes.
constexpr int kPanelRegs = 4;
constexpr int64_t kPanelLanes = kPanelRegs * Vec::kLanes;
static_assert(kPanelLanes % kTileLanes == 0);
// Dimensions taken at a time: a panel of this many rows of kPanelLanes floats stays in the
// first-level cache.
constexpr int64_t kDimBlock = Vec::kLanes == 8 ? 128 : 64;
constexpr int kTileVectors = kIndexTileKeys / Vec::kLanes;

// Blocks of kPanelLanes keys: [dim][kPanelLanes].
void pack_keys(const float* keys, int64_t stride, int64_t n, int64_t dim, float* panel) {
  for (int64_t lane = 0; lane < kIndexTileKeys; lane += kPanelLanes) {
    const int64_t left = n - lane < 0 ? 0 : n - lane < kPanelLanes ? n - lane : kPanelLanes;
    transpose(keys + lane * stride, stride, left, dim, kPanelLanes, panel + lane * dim,
              kPanelLanes);
  }
}

template <bool kPairs>
[[gnu::noinline]] void multiply_all(const float* queries, int64_t rows, int64_t dim,
                                    const float* panel, float* dots) {
  for (int64_t lane = 0; lane < kIndexTileKeys; lane += kPanelLanes) {
    for (int64_t k = 0; k < dim; k += kDimBlock) {
      const int64_t num_k = dim - k < kDimBlock ? dim - k : kDimBlock;
      const float* at = panel + lane * dim + k * kPanelLanes;
      const auto query = [=](int64_t r, int64_t j) __attribute__((always_inline)) {
        return queries[r * dim + k + j];
      };
      // Two rows of two registers are four chains, which leave half of the units idle.
      if (rows == 2) {
        product_tile<2, kPanelRegs, kPairs>(
            num_k,
            query, [=](int64_t j) __attribute__((always_inline)) { return at + j * kPanelLanes; },
            dots + lane, kIndexTileKeys, k > 0);
        continue;
      }
      for (int64_t part = 0; part < kPanelLanes; part += kTileLanes) {
        product_rows<Vec::kTileRegs, kPairs>(
            rows, num_k, query,
            [=](int64_t j) __attribute__((always_inline)) { return at + part + j * kPanelLanes; },
            dots + lane + part, kIndexTileKeys, k > 0);
      }
    }
  }
}

void multiply(const float* queries, int64_t rows, int64_t dim, const float* panel, bool bf16_math,
              float* dots) {
  if (bf16_math) {
    const FlushDenormals flush(true);
    multiply_all<true>(queries, rows, dim, panel, dots);
  } else {
    multiply_all<false>(queries, rows, dim, panel, dots);
  }
}

template <bool kRound>
void reduce_heads(const float* dots, const float* weight, int64_t heads, float* scores) {
  Vec::Reg sum[kTileVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kTileVectors; ++v) sum[v] = Vec::zero();
  for (int64_t h = 0; h < heads; ++h) {
    const Vec::Reg w = Vec::set1(weight[h]);
#pragma GCC unroll 8
    for (int v = 0; v < kTileVectors; ++v) {
      const Vec::Reg d = Vec::load(dots + h * kIndexTileKeys + v * Vec::kLanes);
      if constexpr (kRound) {
        const Vec::Reg r = Vec::max(Vec::round_bf16(d), Vec::zero());
        sum[v] = Vec::add(sum[v], Vec::round_bf16(Vec::mul(r, w)));
      } else {
        sum[v] = Vec::fma(Vec::max(d, Vec::zero()), w, sum[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kTileVectors; ++v) {
    Vec::store(scores + v * Vec::kLanes, kRound ? Vec::round_bf16(sum[v]) : sum[v]);
  }
}

void reduce(const float* dots, const float* weight, int64_t heads, bool round_scores,
            float* scores) {
  if (round_scores) {
    reduce_heads<true>(dots, weight, heads, scores);
  } else {
    reduce_heads<false>(dots, weight, heads, scores);
  }
}

uint64_t above(const float* scores, float threshold) {
  const Vec::Reg limit = Vec::set1(threshold);
  uint64_t mask = 0;
#pragma GCC unroll 8
  for (int v = 0; v < kTileVectors; ++v) {
    mask |= uint64_t{Vec::greater(Vec::load(scores + v * Vec::kLanes), limit)} << (v * Vec::kLanes);
  }
  return mask;
}

int64_t query_stride(int64_t dim) { return dim; }

constexpr IndexKernels kKernels = {nullptr,  query_stride, pack_keys, nullptr,
                                   multiply, reduce,       above};

}  // namespace
}  // namespace cachalot::ops
