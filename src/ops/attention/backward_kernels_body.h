// The text of backward_kernels.h, compiled once per instruction set: included after vector_<isa>.h.
#pragma once

#include "ops/attention/backward_kernels.h"
#include "ops/attention/tile_product.h"
#include "ops/attention/transpose_avx2.h"

namespace cachalot::ops {
namespace {

void attention_gradients(float* a, int64_t head_lanes, int64_t n, const float* z, float* mean) {
  for (int64_t lane = 0; lane < head_lanes; lane += Vec::kLanes) {
    const Vec::Reg divisor = Vec::load(z + lane);
    Vec::Reg sum = Vec::zero();
    for (int64_t i = 0; i < n; ++i) {
      float* const at = a + i * 2 * head_lanes + lane;
      const Vec::Reg p = Vec::div(Vec::load(at), divisor);
      Vec::store(at, p);
      sum = Vec::fma(p, Vec::load(at + head_lanes), sum);
    }
    Vec::store(mean + lane, sum);
    for (int64_t i = 0; i < n; ++i) {
      float* const at = a + i * 2 * head_lanes + lane;
      const Vec::Reg difference = Vec::sub(Vec::load(at + head_lanes), sum);
      Vec::store(at + head_lanes, Vec::mul(Vec::load(at), difference));
    }
  }
}

// Lane = key here: squares of 8 x 8 are transposed, so that heads are added in order.
void index_scores(const float* dots, int64_t head_lanes, int64_t heads, int64_t n,
                  const float* weight, float* scores) {
  float square[64];
  for (int64_t i = 0; i < n; i += 8) {
    const int64_t keys = n - i < 8 ? n - i : 8;
    __m256 sum = _mm256_setzero_ps();
    for (int64_t h = 0; h < heads; h += 8) {
      transpose(dots + i * head_lanes + h, head_lanes, keys, 8, 8, square, 8);
      const int64_t end = heads - h < 8 ? heads - h : 8;
      for (int64_t j = 0; j < end; ++j) {
        const __m256 d = _mm256_max_ps(_mm256_loadu_ps(square + j * 8), _mm256_setzero_ps());
        sum = _mm256_fmadd_ps(d, _mm256_set1_ps(weight[h + j]), sum);
      }
    }
    _mm256_storeu_ps(square, sum);
    for (int64_t j = 0; j < keys; ++j) scores[i + j] = square[j];
  }
}

SoftmaxSums softmax_gradient(const float* scores, const float* target, int64_t n, float d_loss,
                             float* d_score) {
  float max = -__builtin_inff();
  for (int64_t i = 0; i < n; ++i) max = scores[i] > max ? scores[i] : max;
  const Vec::Reg shift = Vec::set1(max);
  int64_t i = 0;
  for (; i + Vec::kLanes <= n; i += Vec::kLanes) {
    Vec::store(d_score + i, Vec::exp(Vec::sub(Vec::load(scores + i), shift)));
  }
  if (i < n) {
    float tail[Vec::kLanes] = {};
    for (int64_t j = i; j < n; ++j) tail[j - i] = scores[j];
    Vec::store(tail, Vec::exp(Vec::sub(Vec::load(tail), shift)));
    for (int64_t j = i; j < n; ++j) d_score[j] = tail[j - i];
  }
  float sum = 0;
  for (i = 0; i < n; ++i) sum += d_score[i];
  for (i = 0; i < n; ++i) d_score[i] = d_loss * (d_score[i] / sum - target[i]);
  return {max, sum};
}

void index_gradients(float* dots, int64_t head_lanes, int64_t n, const float* d_score,
                     const float* weight, float* d_weight) {
  for (int64_t lane = 0; lane < head_lanes; lane += Vec::kLanes) {
    const Vec::Reg w = Vec::load(weight + lane);
    Vec::Reg sum = Vec::load(d_weight + lane);
    for (int64_t i = 0; i < n; ++i) {
      float* const at = dots + i * head_lanes + lane;
      const Vec::Reg dot = Vec::load(at);
      const Vec::Reg g = Vec::set1(d_score[i]);
      sum = Vec::fma(g, Vec::max(dot, Vec::zero()), sum);
      Vec::store(at, Vec::where_positive(dot, Vec::mul(g, w)));
    }
    Vec::store(d_weight + lane, sum);
  }
}

void add_terms(float* const* d, int64_t n, const float* coefficients, int64_t stride,
               const KeyTerm* terms, int64_t num_terms, int64_t begin, int64_t end) {
  int64_t channel = begin;
  while (end - channel >= Vec::kLanes) {
    const int64_t left = (end - channel) / Vec::kLanes * Vec::kLanes;
    const int64_t lanes = left < kTileLanes ? left : kTileLanes;
    product_lanes<false>(
        n, lanes, num_terms,
        [=](int64_t r, int64_t k)
            __attribute__((always_inline)) { return coefficients[r * stride + terms[k].place]; },
        [=](int64_t k) __attribute__((always_inline)) { return terms[k].row + channel; },
        [=](int64_t r) __attribute__((always_inline)) { return d[r] + channel; }, true);
    channel += lanes;
  }
  // Widths that are no multiple of a vector occur in tests only.
  for (; channel < end; ++channel) {
    for (int64_t r = 0; r < n; ++r) {
      float sum = d[r][channel];
      for (int64_t k = 0; k < num_terms; ++k) {
        sum = __builtin_fmaf(coefficients[r * stride + terms[k].place], terms[k].row[channel], sum);
      }
      d[r][channel] = sum;
    }
  }
}

constexpr BackwardKernels kKernels = {Vec::kLanes,      attention_gradients, index_scores,
                                      softmax_gradient, index_gradients,     add_terms};

}  // namespace
}  // namespace cachalot::ops
