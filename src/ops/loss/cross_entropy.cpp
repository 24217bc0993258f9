#include "ops/loss/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/loss/softmax_kernels.h"

namespace cachalot::ops {
namespace {

float row_weight(const CrossEntropyParams& p, int64_t row) {
  return p.weights == nullptr ? 1.0f : p.weights[row];
}

double row_loss(const CrossEntropyParams& p, int64_t row, ExpSumKernel* exp_sum,
                ScaleKernel* scale) {
  const int32_t label = p.labels[row];
  float* d = p.d_logits == nullptr ? nullptr : p.d_logits + row * p.d_logits_stride;
  if (label < 0) {
    if (d != nullptr) std::fill_n(d, p.vocab_size, 0.0f);
    return 0;
  }
  CACHALOT_CHECK(label < p.vocab_size);
  const float* x = p.logits + row * p.logits_stride;
  const auto logit = static_cast<double>(x[label]);  // read before d, which may be x
  const ExpSum s = exp_sum(x, p.vocab_size, d);
  if (d != nullptr) {
    const double e = d[label];
    const float factor = p.scale * row_weight(p, row);
    scale(d, p.vocab_size, static_cast<float>(factor / s.sum));
    d[label] = static_cast<float>(factor * ((e - s.sum) / s.sum));
  }
  return static_cast<double>(s.max) - logit + std::log(s.sum);
}

}  // namespace

double cross_entropy(device::ExecContext& ctx, const CrossEntropyParams& p, double loss_sum) {
  CACHALOT_CHECK(p.rows >= 0 && p.vocab_size > 0);
  CACHALOT_CHECK(p.rows <= 1 || p.logits_stride >= p.vocab_size);
  CACHALOT_CHECK(p.rows <= 1 || p.d_logits == nullptr || p.d_logits_stride >= p.vocab_size);
  CACHALOT_CHECK(p.d_logits != p.logits || p.rows <= 1 || p.d_logits_stride == p.logits_stride);
  device::ArenaScope scope(*ctx.arena);
  double* losses = p.losses != nullptr ? p.losses : ctx.arena->allocate<double>(p.rows);
  ExpSumKernel* exp_sum = pick_kernel(ctx.isa, exp_sum_ref, exp_sum_avx2, exp_sum_avx512);
  ScaleKernel* scale = pick_kernel(ctx.isa, scale_ref, scale_avx2, scale_avx512);
  // An exponential costs about as much as four of the operations that the block size counts.
  for_row_blocks(ctx, p.rows, 4 * p.vocab_size, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) losses[row] = row_loss(p, row, exp_sum, scale);
  });
  for (int64_t row = 0; row < p.rows; ++row) loss_sum += row_weight(p, row) * losses[row];
  return loss_sum;
}

}  // namespace cachalot::ops
