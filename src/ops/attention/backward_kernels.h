// The vector work that the gradients of attention and of the indexer add to AttentionKernels, one
// table an instruction set.
// Layout  a token's coefficients are rows of floats, one a key of its list, lane = head.
#pragma once

#include <cstdint>

#include "device/isa.h"

namespace cachalot::ops {

// What a token has for its keys' gradients: runs of `count` rows of channels, `stride` apart (its
// heads' queries, its heads' gradients of outputs), each with its coefficients' place in a key's
// row.
struct KeyTerms {
  struct Run {
    const float* rows;
    int64_t place;
  };
  static constexpr int kMaxRuns = 2;
  Run runs[kMaxRuns];
  int64_t num_runs;
  int64_t count;
  int64_t stride;
};

struct SoftmaxSums {
  float max;
  float sum;  // of exp(score - max)
};

struct BackwardKernels {
  int64_t lanes;

  // a [n][2 * head_lanes] holds weights p, then b, both as sparse_attention_backward.h has them; it
  // becomes P = p / z, then g. mean [head_lanes] becomes B.
  void (*attention_gradients)(float* a, int64_t head_lanes, int64_t n, const float* z, float* mean);

  // scores [n] = sum over heads ascending of relu(dots) * weight, one fma a term from 0;
  // dots [n][head_lanes], head_lanes a multiple of 8.
  void (*index_scores)(const float* dots, int64_t head_lanes, int64_t heads, int64_t n,
                       const float* weight, float* scores);

  // What a softmax adds to the gradient of its scores [n]: d_score = d_loss * (exp(score - max) /
  // sum
  // - target), the sum one chain ascending.
  SoftmaxSums (*softmax_gradient)(const float* scores, const float* target, int64_t n, float d_loss,
                                  float* d_score);

  // dots [n][head_lanes] becomes d_score[i] * weight where the dot product is positive, else 0;
  // d_weight [head_lanes] += sum over keys of d_score[i] relu(dot).
  void (*index_gradients)(float* dots, int64_t head_lanes, int64_t n, const float* d_score,
                          const float* weight, float* d_weight);

  // d[i][c] += sum over runs, then their rows k, of coefficients[i * stride + place + k] *
  // row_k[c]; keys i < n, channels c in [begin, end). panel is scratch: the terms' rows times (end
  // - begin), and a cache line for each 8 channels.
  void (*add_terms)(float* const* d, int64_t n, const float* coefficients, int64_t stride,
                    const KeyTerms& terms, int64_t begin, int64_t end, float* panel);
};

const BackwardKernels& backward_kernels(device::Isa isa);  // avx2 or above
extern const BackwardKernels kBackwardAvx2, kBackwardAvx512;

// Kernels of 16 lanes = heads would leave half of them idle with 8 heads or fewer.
inline device::Isa vector_isa(device::Isa isa, int64_t heads) {
  return heads <= 8 ? device::Isa::avx2 : isa;
}

}  // namespace cachalot::ops
