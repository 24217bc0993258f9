// Gradients of sparse_attention: of its queries, window rows, entries and sinks. Probabilities are
// computed again, not kept.
// Source  reference/forward 3.4, 3.7; reference/infrastructure 5.3.
//         Per head, with P_i = exp(s_i - max s) / Z and P_sink the sink's share of Z:
//         b_i = (dout . key_i) * scale,  B = sum P_i b_i,  g_i = P_i (b_i - B)
//         dq += sum_i g_i key_i;  d_sink -= P_sink (B / scale);
//         dkey_i += sum over queries and heads of g_i q + P_i dout     (the row is key and value)
// Shapes  forward: the forward's inputs; `out` is not read. dout, dq [rows, heads, head_dim];
//         d_recent [rows, head_dim]; d_entries [entries of all sequences, head_dim], sequence after
//         sequence; d_sink [heads]. d_recent is unused where window = 0, d_entries where ratio = 0.
//         Outputs overlap nothing. Every sequence starts at position 0 (training): no ring.
// Numerics  fp32, whatever bf16_math says; an encoded row's gradient is that of its decoded value.
//         All outputs are added to. Every sum is one chain of fused multiply-adds that starts from
//         what the buffer holds (B: from 0): dq over keys in list order; d_sink over rows
//         ascending, sequence after sequence; a key row over queries ascending, in a query the
//         heads' g q ascending, then the heads' P dout. So bits do not depend on threads or on the
//         instruction set.
// Special a token without keys adds nothing; where Z overflows (a sink that drowns the keys) P = 0.
#pragma once

#include "ops/attention/sparse_attention.h"

namespace cachalot::ops {

struct SparseAttentionBackwardParams {
  SparseAttentionParams forward;
  const float* dout;
  float* dq;
  float* d_recent;
  float* d_entries;
  float* d_sink;
};
void sparse_attention_backward(device::ExecContext& ctx, const SparseAttentionBackwardParams& p);

}  // namespace cachalot::ops
