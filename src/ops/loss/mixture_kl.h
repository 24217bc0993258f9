// Reverse KL divergences of a policy to teachers over the whole vocabulary, and the gradient of
// their weighted sum, without a second matrix as large as the logits: teachers' logits come a
// stretch of the vocabulary at a time and leave one weighted sum behind.
// Source  reference/post-training 8.1, 8.2, 15. p = softmax(z), q_k = softmax(u_k), weights w_k,
//         W = sum_k w_k:
//         ratio[v] = W log p_v - sum_k w_k log q_k,v
//         loss = sum_k w_k KL(p || q_k) = sum_v p_v ratio[v]
//         d_logits[v] = scale p_v (ratio[v] - loss)
//         sum_k w_k log q_k,v is mixed[v] = sum_k w_k u_k,v less a number that is the row's.
// Calls   mix_teacher() for each teacher and stretch, a teacher's stretches from the first entry to
//         the last; MixtureLog::add() for each teacher; then mixture_kl().
// Threads concurrent calls need distinct ctx.
#pragma once

#include <cstdint>
#include <limits>

#include "device/exec_context.h"

namespace cachalot::ops {

// exp(max) sum is the sum of exp over what came so far. Begins as it is here.
struct ExpTotal {
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0;
};

// sum_k w_k log sum_v exp(u_k,v), in two parts: a policy that is its teacher then has the loss 0.
struct MixtureLog {
  double max = 0;
  double log = 0;
  double weight = 0;
  void add(double teacher_weight, const ExpTotal& total);
};

// Stretches begin at multiples of this.
inline constexpr int64_t kMixStretch = 1024;

// A teacher's logits of vocabulary entries [first, first + count).
// Shapes  logits [rows, count] with a stride; places [rows] distinct rows of mixed; weights [rows];
//         mixed [*, vocab_size] with a stride, 0 before the first teacher's; totals [rows].
// Numerics  mixed = fp32(mixed + fp32(weight * logit)); totals by runs of 1,024 entries
//         (softmax_kernels.h), one after another in double. So neither stretches nor the other rows
//         change a bit; the order of teachers does.
struct MixTeacherParams {
  const float* logits;
  int64_t logits_stride;
  int64_t rows;
  int64_t first;
  int64_t count;
  const int32_t* places;
  const float* weights;
  float* mixed;
  int64_t mixed_stride;
  ExpTotal* totals;
};
void mix_teacher(device::ExecContext& ctx, const MixTeacherParams& p);

// Shapes  logits and mixed [rows, vocab_size] with strides; logs [rows]; scales [rows]; losses
//         [rows] or null, without scale; d_logits as logits, or null: written, and may be mixed.
// Special A row that holds NaN or an infinity gives NaN. Of one teacher with the policy's own
//         logits and a weight that is a power of two, loss and gradient are 0 exactly.
// Numerics  p from exp_sum (softmax_kernels.h), the policy's own total by runs as the teachers'.
//         Ratios and their sum in double: entries 16 apart in chains that are folded 8+8, 4+4, 2+2,
//         1+1. Bits depend on the row alone.
struct MixtureKlParams {
  const float* logits;
  int64_t logits_stride;
  const float* mixed;
  int64_t mixed_stride;
  int64_t rows;
  int64_t vocab_size;
  const MixtureLog* logs;
  const double* scales = nullptr;  // with d_logits
  double* losses = nullptr;
  float* d_logits = nullptr;
  int64_t d_logits_stride = 0;
};
void mixture_kl(device::ExecContext& ctx, const MixtureKlParams& p);

}  // namespace cachalot::ops
