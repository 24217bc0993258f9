// Cross entropy of next-token logits, and its gradient.
// Source  reference/training 6.4, 6.7: mean of -log softmax(logits)[label], logits in fp32.
//         loss[t] = log(sum_v exp(logits[t, v])) - logits[t, label];  d_logits[t, v] = scale
//         weight[t] (softmax[t, v] - [v = label])
// Shapes  logits [rows, vocab_size] with a stride; labels [rows], negative for rows that are
//         masked; weights [rows], or null: all 1; losses [rows] or null, without weights; d_logits
//         as logits, or null for losses alone. d_logits is written, not added to, because it may be
//         logits itself: the head is the logits' only reader.
// Special  A masked row has loss 0 and gradients 0. A row that holds NaN, +inf or nothing but -inf
//          has loss and gradients NaN.
// Numerics  m is the row's maximum, e = exp_f32(x - m) (ops/elementwise/exp.h). Each run of 1,024
//         values of e is summed in 16 fp32 chains (value i in chain i mod 16) folded 8+8, 4+4, 2+2,
//         1+1, the runs in double; logarithm, loss and the label's gradient scale * ((e - sum) /
//         sum) are in double; another gradient is e times fp32(scale / sum). Of a weighted row
//         `scale` is fp32(scale * weight). Bits depend on the row alone.
// Errors  CHECK: a label of vocab_size or more, shapes.
// Threads  concurrent calls need distinct ctx.
#pragma once

#include <cstdint>

#include "device/exec_context.h"

namespace cachalot::ops {

struct CrossEntropyParams {
  const float* logits;
  int64_t logits_stride;
  const int32_t* labels;
  int64_t rows;
  int64_t vocab_size;
  float scale = 1;  // 1 over the tokens of the whole step gives the gradient of the mean
  const float* weights = nullptr;
  float* d_logits = nullptr;
  int64_t d_logits_stride = 0;
  double* losses = nullptr;
};

// loss_sum plus the rows' weighted losses, added in double one after the other: rows in one call
// or, each continuing the sum of the one before, in several give the same bits.
double cross_entropy(device::ExecContext& ctx, const CrossEntropyParams& p, double loss_sum = 0);

}  // namespace cachalot::ops
