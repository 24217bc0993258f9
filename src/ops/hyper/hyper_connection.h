// mHC: what surrounds each sublayer. The products with hc_fn are matmuls (fp32 math) made by the
// model.
// Source  reference/forward 2.3 - 2.6.
// Shapes  streams [rows, n, d]; mixes [rows, 2n + n*n] = fn . x (before the factor); base like
//         mixes; scale [3]; pre, post [rows, n]; comb [rows, n, n] (source stream, destination
//         stream). n <= 8.
// Numerics  fp32 throughout; round_* is one rounding to bf16 of the result. The mean of squares
//         over a row's n*d values runs in 16 interleaved fma chains folded 8+8, 4+4, 2+2, 1+1; sums
//         over streams ascend, one fma a term after the first, which is a plain product. exp is
//         ops/elementwise/exp.h.
#pragma once

#include <cstdint>

#include "device/exec_context.h"

namespace cachalot::ops {

// inv_rms [rows] = 1 / sqrt(mean(x^2) + eps) over all n*d values of a row.
void hyper_inv_rms(device::ExecContext& ctx, const float* streams, int64_t rows, int64_t columns,
                   float eps, float* inv_rms);

// unconstrained (an ablation): comb stays as it is before Sinkhorn, with the identity added: C = C
// + I.
enum class HyperKind { mhc, unconstrained };

struct HyperSplitParams {
  const float* mixes;
  const float* inv_rms;
  const float* base;
  const float* scale;
  int64_t rows;
  int64_t n;
  int64_t sinkhorn_iters;
  float hc_eps;
  HyperKind kind;
  float* pre;
  float* post;
  float* comb;
};
void hyper_split(device::ExecContext& ctx, const HyperSplitParams& p);

// pre only: the head's collapse. mixes [rows, n], base [n], scale [1].
void hyper_head_split(device::ExecContext& ctx, const float* mixes, const float* inv_rms,
                      const float* base, const float* scale, int64_t rows, int64_t n, float hc_eps,
                      float* pre);

// u [rows, d] = sum_j pre_j X_j.
void hyper_pre(device::ExecContext& ctx, const float* streams, const float* pre, int64_t rows,
               int64_t n, int64_t d, bool round_u, float* u);

// X'_k = post_k y + sum_j comb[j,k] X_j, starting from post_k * y, j ascending, into out
// [rows, n, d], which may be streams (serving); training keeps the old streams.
void hyper_post(device::ExecContext& ctx, const float* streams, const float* y, const float* post,
                const float* comb, int64_t rows, int64_t n, int64_t d, bool round_x, float* out);

// Backward. reference/training 10, reference/infrastructure 5.3.
// Shapes  d_x is the gradient of x and has x's shape. Every function adds to the gradients it
//         yields; none of them may overlap another argument.
// Numerics  fp32; roundings to bf16 count as the identity. Sums over d run like the mean of squares
//         above (16 chains, folded), sums over streams ascend by fma. The bits do not depend on
//         threads, instruction set or the other rows; d_base and d_scale are one chain of sums over
//         rows ascending from what they hold, so rows in one call or in several give the same bits.

// From the gradients of pre, post and comb to those of what they were computed from. Sinkhorn's
// passes are computed again as hyper_split does, epsilons included, and walked in reverse.
struct HyperSplitGradients {
  const float* d_pre;
  const float* d_post;
  const float* d_comb;
  float* d_mixes;
  float* d_inv_rms;  // [rows]
  float* d_base;     // null: frozen
  float* d_scale;    // null: frozen
};
// p.pre, p.post and p.comb are not used.
void hyper_split_backward(device::ExecContext& ctx, const HyperSplitParams& p,
                          const HyperSplitGradients& g);

struct HyperHeadSplitBackwardParams {
  const float* mixes;
  const float* inv_rms;
  const float* base;
  const float* scale;
  int64_t rows;
  int64_t n;
  const float* d_pre;
  float* d_mixes;
  float* d_inv_rms;
  float* d_base;   // null: frozen
  float* d_scale;  // null: frozen
};
void hyper_head_split_backward(device::ExecContext& ctx, const HyperHeadSplitBackwardParams& p);

// d_streams -= d_inv_rms inv_rms^3 / columns * streams, row by row. inv_rms: the forward's result.
void hyper_inv_rms_backward(device::ExecContext& ctx, const float* streams, const float* inv_rms,
                            const float* d_inv_rms, int64_t rows, int64_t columns,
                            float* d_streams);

// d_streams_j += pre_j d_u;  d_pre_j += d_u . X_j.
struct HyperPreBackwardParams {
  const float* streams;
  const float* pre;
  const float* d_u;
  int64_t rows;
  int64_t n;
  int64_t d;
  float* d_streams;
  float* d_pre;
};
void hyper_pre_backward(device::ExecContext& ctx, const HyperPreBackwardParams& p);

// d_streams_j += sum_k comb[j,k] d_out_k;  d_comb[j,k] += X_j . d_out_k;
// d_y += sum_k post_k d_out_k;             d_post_k += y . d_out_k.  streams: those before
// hyper_post.
struct HyperPostBackwardParams {
  const float* streams;
  const float* y;
  const float* post;
  const float* comb;
  const float* d_out;
  int64_t rows;
  int64_t n;
  int64_t d;
  float* d_streams;
  float* d_y;
  float* d_post;
  float* d_comb;
};
void hyper_post_backward(device::ExecContext& ctx, const HyperPostBackwardParams& p);

}  // namespace cachalot::ops
