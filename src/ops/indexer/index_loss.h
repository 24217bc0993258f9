// The indexer's loss: how far the softmax of its scores is from the attention that the entries
// receive (ops/attention/attention_target.h); with its gradients.
// Source  reference/training 6.3 (V3.2's loss, over compressed entries), reference/forward 3.6;
//         reference/infrastructure 5.3.
// Loss    I_i = sum over heads of relu(q_h . key_i) * weight_h,  pi = softmax(I)
//         loss += sum over rows of KL(target || pi) = sum_i target_i (log target_i - log pi_i)
//         where i runs over the token's selected entries, or over all visible ones,
//         e < floor((position + 1) / ratio), where `selected` is null (warm-up, with a dense
//         attention's target).
// Gradient  of d_loss times the loss, none to the target:
//         dI_i = d_loss (pi_i - target_i);  d_weight_h += sum_i dI_i relu(q_h . key_i);
//         with u_h,i = dI_i weight_h where q_h . key_i > 0, else 0:
//         dq_h += sum_i u_h,i key_i;  d_key_i += sum over rows and heads of u_h,i q_h
// Shapes  q, dq [rows, heads, dim]; weight, d_weight [rows, heads]; keys rows of `format`; selected
//         [rows, topk] ascending; target [rows, target_stride], place i for the token's i-th entry;
//         d_keys [entries, dim]. dq null: the loss alone. Outputs overlap nothing.
// Numerics  fp32 chains as in index_select with neither bf16_math nor round_scores; a row's loss in
//         double (its logarithms are the C library's), rows added ascending to *loss. Gradients are
//         added to; every sum is one chain of fused multiply-adds from what the buffer holds: over
//         entries ascending, for d_keys over rows, then heads ascending. Bits do not depend on cuts
//         of the rows, threads or the instruction set. An encoded key's gradient is its decoded
//         value's.
// Special a token whose target is all zeros (nothing visible, or nothing received) adds nothing.
#pragma once

#include <cstdint>

#include "device/exec_context.h"
#include "tensor/rows.h"

namespace cachalot::ops {

struct IndexLossParams {
  const float* q;
  const float* weight;
  int64_t heads;
  int64_t dim;
  tensor::Sequences sequences;
  const tensor::LayerRows* layer_rows;
  int64_t ratio;
  tensor::IndexFormat format;
  const int32_t* selected;  // null: all visible entries
  const int32_t* num_selected;
  int64_t topk;
  const float* target;
  int64_t target_stride;
  double* loss;
  float d_loss;
  float* dq;
  float* d_weight;
  float* d_keys;
};
void index_loss(device::ExecContext& ctx, const IndexLossParams& p);

}  // namespace cachalot::ops
