// The text of backward_kernels.h, compiled once per instruction set: included after vector_<isa>.h.
#pragma once

#include "ops/attention/backward_kernels.h"
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

// The terms' rows, channels [begin, end): tiles of kLanes channels, in each the rows one after
// another. As they lie, rows a power of two apart would share a few cache sets, and each is read by
// every key. The same hazard, between tiles, is why a tile takes a cache line more than its rows.
constexpr int64_t kTermsLanes = Vec::kTileRegs * Vec::kLanes;

int64_t tile_floats(const KeyTerms& terms, int64_t lanes) {
  return terms.num_runs * terms.count * lanes + 16;
}

void pack_terms(const KeyTerms& terms, int64_t begin, int64_t end, float* panel) {
  const int64_t num_tiles = (end - begin) / kTermsLanes;
  const int64_t wide = tile_floats(terms, kTermsLanes);
  const int64_t narrow = tile_floats(terms, Vec::kLanes);
  for (int64_t run = 0; run < terms.num_runs; ++run) {
    for (int64_t k = 0; k < terms.count; ++k) {
      const float* row = terms.runs[run].rows + k * terms.stride + begin;
      const int64_t place = run * terms.count + k;
      float* out = panel + place * kTermsLanes;
      for (int64_t tile = 0; tile < num_tiles; ++tile, out += wide) {
#pragma GCC unroll 8
        for (int v = 0; v < Vec::kTileRegs; ++v, row += Vec::kLanes) {
          Vec::store(out + v * Vec::kLanes, Vec::load(row));
        }
      }
      out = panel + num_tiles * wide + place * Vec::kLanes;
      const float* const last = terms.runs[run].rows + k * terms.stride + end - Vec::kLanes;
      for (; row <= last; row += Vec::kLanes, out += narrow) Vec::store(out, Vec::load(row));
    }
  }
}

// Sums stay in registers over all runs: with 8 heads they are loaded and stored for 16 products.
template <int kRows, int kRegs>
[[gnu::always_inline]] inline void add_tile(float* const* d, int64_t channel,
                                            const float* coefficients, int64_t stride,
                                            const KeyTerms& terms, const float* panel) {
  float* out[kRows];
  Vec::Reg acc[kRows][kRegs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    out[r] = d[r] + channel;
#pragma GCC unroll 8
    for (int v = 0; v < kRegs; ++v) acc[r][v] = Vec::load(out[r] + v * Vec::kLanes);
  }
  for (int64_t run = 0; run < terms.num_runs; ++run) {
    const float* a = coefficients + terms.runs[run].place;
    for (const float* const end = a + terms.count; a != end; ++a, panel += kRegs * Vec::kLanes) {
      Vec::Reg row[kRegs];
#pragma GCC unroll 8
      for (int v = 0; v < kRegs; ++v) row[v] = Vec::load(panel + v * Vec::kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vec::Reg x = Vec::set1(a[r * stride]);
#pragma GCC unroll 8
        for (int v = 0; v < kRegs; ++v) acc[r][v] = Vec::fma(x, row[v], acc[r][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kRegs; ++v) Vec::store(out[r] + v * Vec::kLanes, acc[r][v]);
  }
}

template <int kRegs>
void add_tiles(float* const* d, int64_t n, int64_t channel, const float* coefficients,
               int64_t stride, const KeyTerms& terms, const float* panel) {
  while (n > 0) {
    const int64_t take = n == 7 || n == 8 ? 4 : n < 6 ? n : 6;  // as tile_product.h cuts rows
    switch (take) {
      case 1: add_tile<1, kRegs>(d, channel, coefficients, stride, terms, panel); break;
      case 2: add_tile<2, kRegs>(d, channel, coefficients, stride, terms, panel); break;
      case 3: add_tile<3, kRegs>(d, channel, coefficients, stride, terms, panel); break;
      case 4: add_tile<4, kRegs>(d, channel, coefficients, stride, terms, panel); break;
      case 5: add_tile<5, kRegs>(d, channel, coefficients, stride, terms, panel); break;
      default: add_tile<6, kRegs>(d, channel, coefficients, stride, terms, panel);
    }
    n -= take;
    d += take;
    coefficients += take * stride;
  }
}

void add_terms(float* const* d, int64_t n, const float* coefficients, int64_t stride,
               const KeyTerms& terms, int64_t begin, int64_t end, float* panel) {
  pack_terms(terms, begin, end, panel);
  int64_t channel = begin;
  for (; end - channel >= kTermsLanes; channel += kTermsLanes) {
    add_tiles<Vec::kTileRegs>(d, n, channel, coefficients, stride, terms, panel);
    panel += tile_floats(terms, kTermsLanes);
  }
  for (; end - channel >= Vec::kLanes; channel += Vec::kLanes) {
    add_tiles<1>(d, n, channel, coefficients, stride, terms, panel);
    panel += tile_floats(terms, Vec::kLanes);
  }
  // Widths that are no multiple of a vector occur in tests only.
  for (; channel < end; ++channel) {
    for (int64_t i = 0; i < n; ++i) {
      float sum = d[i][channel];
      for (int64_t run = 0; run < terms.num_runs; ++run) {
        const float* a = coefficients + i * stride + terms.runs[run].place;
        const float* row = terms.runs[run].rows + channel;
        for (int64_t k = 0; k < terms.count; ++k) {
          sum = __builtin_fmaf(a[k], row[k * terms.stride], sum);
        }
      }
      d[i][channel] = sum;
    }
  }
}

constexpr BackwardKernels kKernels = {Vec::kLanes,      attention_gradients, index_scores,
                                      softmax_gradient, index_gradients,     add_terms};

}  // namespace
}  // namespace cachalot::ops
