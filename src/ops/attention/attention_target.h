// The attention that a token's compressed entries receive, all heads together: what its indexer
// learns to predict. Nothing flows back through it.
// Source  reference/training 6.3; reference/forward 3.7.
//         target[t, i] = a_i / sum over i of a_i,  a_i = sum over heads of P_i, where P is
//         sparse_attention's: the softmax includes the window and the sink, the target does not.
// Shapes  forward: the forward's inputs, ratio > 0; `out` is not read. target [rows, stride]: place
//         i is the token's i-th entry (selected[t, i], or entry i where nothing is selected), 0
//         from its number of entries on; stride is at least that number.
// Numerics  fp32, whatever bf16_math says. a_i: one fma a head ascending from 0, weight p times 1 /
//         Z; their sum one chain of additions ascending. Bits do not depend on other rows, threads
//         or the instruction set.
// Special a token whose entries receive nothing (none is visible, or all P are below the smallest
//         float) has a target of zeros.
#pragma once

#include "ops/attention/sparse_attention.h"

namespace cachalot::ops {

void attention_target(device::ExecContext& ctx, const SparseAttentionParams& forward,
                      int64_t stride, float* target);

}  // namespace cachalot::ops
