// The text of attention_kernels.h, compiled once per instruction set: included after
// vector_<isa>.h.
#pragma once

#include "ops/attention/attention_kernels.h"
#include "ops/attention/tile_product.h"
#include "ops/attention/transpose_avx2.h"
#include "ops/matmul/flush_denormals.h"

namespace cachalot::ops {
namespace {

// Channels of q and keys taken at a time: a panel of this many rows of kTileLanes floats stays in
// the first-level cache.
constexpr int64_t kDimBlock = Vec::kLanes == 8 ? 256 : 64;

inline const float* values_of(const std::byte* row) { return reinterpret_cast<const float*>(row); }

int64_t block_lanes(int64_t lanes, int64_t begin) {
  return lanes - begin < kTileLanes ? lanes - begin : kTileLanes;
}

// Blocks of kTileLanes heads (the last may be narrower): [dim][lanes of the block].
void prepare_q(const float* q, int64_t heads, int64_t dim, float* prepared) {
  const int64_t head_lanes = (heads + Vec::kLanes - 1) / Vec::kLanes * Vec::kLanes;
  for (int64_t begin = 0; begin < head_lanes; begin += kTileLanes) {
    const int64_t lanes = block_lanes(head_lanes, begin);
    const int64_t n = heads - begin < lanes ? heads - begin : lanes;
    transpose(q + begin * dim, dim, n, dim, lanes, prepared + begin * dim, lanes);
  }
}

template <bool kPairs>
[[gnu::noinline]] void score_products(const float* prepared_q, int64_t head_lanes, int64_t dim,
                                      const std::byte* const* keys, int64_t n, float* s) {
  for (int64_t k = 0; k < dim; k += kDimBlock) {
    const int64_t num_k = dim - k < kDimBlock ? dim - k : kDimBlock;
    for (int64_t begin = 0; begin < head_lanes; begin += kTileLanes) {
      const int64_t lanes = block_lanes(head_lanes, begin);
      const float* panel = prepared_q + begin * dim + k * lanes;
      product_lanes<kPairs>(
          n, lanes, num_k,
          [=](int64_t r, int64_t j)
              __attribute__((always_inline)) { return values_of(keys[r])[k + j]; },
          [=](int64_t j) __attribute__((always_inline)) { return panel + j * lanes; }, s + begin,
          head_lanes, k > 0);
    }
  }
}

void scale_scores(int64_t head_lanes, int64_t n, float scale, float* s, float* max) {
  const Vec::Reg factor = Vec::set1(scale);
  for (int64_t lane = 0; lane < head_lanes; lane += Vec::kLanes) {
    Vec::Reg m = Vec::load(max + lane);
    for (int64_t i = 0; i < n; ++i) {
      float* const at = s + i * head_lanes + lane;
      const Vec::Reg x = Vec::mul(Vec::load(at), factor);
      Vec::store(at, x);
      m = Vec::max(x, m);
    }
    Vec::store(max + lane, m);
  }
}

void score(const float* prepared_q, int64_t head_lanes, int64_t dim, const std::byte* const* keys,
           int64_t n, float scale, bool bf16_math, float* s, float* max) {
  if (bf16_math) {
    const FlushDenormals flush(true);
    score_products<true>(prepared_q, head_lanes, dim, keys, n, s);
  } else {
    score_products<false>(prepared_q, head_lanes, dim, keys, n, s);
  }
  scale_scores(head_lanes, n, scale, s, max);
}

void weigh(float* s, int64_t head_lanes, int64_t n, int64_t begin, int64_t end, const float* max,
           bool bf16_math, float* z) {
  for (int64_t lane = begin; lane < end; lane += Vec::kLanes) {
    const Vec::Reg m = Vec::load(max + lane);
    Vec::Reg sum = Vec::load(z + lane);
    for (int64_t i = 0; i < n; ++i) {
      float* const at = s + i * head_lanes + lane;
      const Vec::Reg p = Vec::exp(Vec::sub(Vec::load(at), m));
      sum = Vec::add(sum, p);
      Vec::store(at, bf16_math ? Vec::round_bf16(p) : p);
    }
    Vec::store(z + lane, sum);
  }
}

template <bool kPairs>
[[gnu::noinline]] void value_products(const float* p, int64_t head_lanes, int64_t head_begin,
                                      int64_t head_end, const std::byte* const* keys, int64_t n,
                                      int64_t begin, int64_t end, bool accumulate, float* sums,
                                      int64_t sums_stride) {
  const float* weights = p + head_begin;
  for (int64_t channel = begin; channel < end; channel += kTileLanes) {
    product_lanes<kPairs>(
        head_end - head_begin, block_lanes(end, channel), n,
        [=](int64_t r, int64_t i)
            __attribute__((always_inline)) { return weights[i * head_lanes + r]; },
        [=](int64_t i) __attribute__((always_inline)) { return values_of(keys[i]) + channel; },
        sums + head_begin * sums_stride + channel, sums_stride, accumulate);
  }
}

void add_values(const float* p, int64_t head_lanes, int64_t head_begin, int64_t head_end,
                const std::byte* const* keys, int64_t n, int64_t begin, int64_t end, bool bf16_math,
                bool accumulate, float* sums, int64_t sums_stride) {
  if (bf16_math) {
    const FlushDenormals flush(true);
    value_products<true>(p, head_lanes, head_begin, head_end, keys, n, begin, end, accumulate, sums,
                         sums_stride);
  } else {
    value_products<false>(p, head_lanes, head_begin, head_end, keys, n, begin, end, accumulate,
                          sums, sums_stride);
  }
}

void divide(const float* sums, float z, int64_t n, bool bf16_math, float* out) {
  const Vec::Reg divisor = Vec::set1(z);
  const auto quotient = [&](Vec::Reg x) {
    const Vec::Reg y = Vec::div(x, divisor);
    return bf16_math ? Vec::round_bf16(y) : y;
  };
  int64_t k = 0;
  for (; k + Vec::kLanes <= n; k += Vec::kLanes) Vec::store(out + k, quotient(Vec::load(sums + k)));
  if (k < n) {
    float tail[Vec::kLanes] = {};
    for (int64_t i = k; i < n; ++i) tail[i - k] = sums[i];
    Vec::store(tail, quotient(Vec::load(tail)));
    for (int64_t i = k; i < n; ++i) out[i] = tail[i - k];
  }
}

constexpr AttentionKernels kKernels = {Vec::kLanes, Vec::kLanes, sizeof(float), nullptr, prepare_q,
                                       score,       weigh,       add_values,    divide};

}  // namespace
}  // namespace cachalot::ops
