// Log-probabilities of chosen tokens, and the logits' gradient of any loss that is a function of
// them.
// Source  reference/post-training 2.1, 2.2: token-level objectives depend on the logits through
//         log pi(label) alone. z = logits / temperature, p = softmax of z over the allowed tokens,
//         logprob = log p[label];
//         d_logits[v] = coefficient / temperature * ([v = label] - p[v]), 0 where v is not allowed
//         (Keep Sampling Mask: all policies share the action space).
// Shapes  logits [rows, vocab_size] with a stride; labels [rows], each allowed; allowed null (all
//         are) or [rows, allowed_stride] bytes, of which bit v & 7 of byte v >> 3 allows v;
//         coefficients [rows]; logprobs [rows] or null; d_logits as logits, or null. d_logits is
//         written; it may be logits itself.
// Special A row that holds NaN, +inf or nothing but -inf among its allowed tokens gives NaN.
// Numerics  The allowed logits, in the order of their ids, are summed as cross_entropy.h says; the
//         logarithm and the label's gradient are in double, another gradient is e times fp32(-
//         coefficient / (temperature sum)). Bits depend on the row alone.
// Errors  CHECK: a label that is no allowed id, shapes, a temperature not above 0.
// Threads  concurrent calls need distinct ctx.
#pragma once

#include <cstdint>

#include "device/exec_context.h"

namespace cachalot::ops {

struct LabelLogprobParams {
  const float* logits;
  int64_t logits_stride;
  const int32_t* labels;
  int64_t rows;
  int64_t vocab_size;
  const uint8_t* allowed = nullptr;
  int64_t allowed_stride = 0;
  float temperature = 1;
  double* logprobs = nullptr;
  const double* coefficients = nullptr;  // d loss / d logprob; with d_logits
  float* d_logits = nullptr;
  int64_t d_logits_stride = 0;
};

void label_logprob(device::ExecContext& ctx, const LabelLogprobParams& p);

}  // namespace cachalot::ops
