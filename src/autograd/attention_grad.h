// Attention over cached rows, recorded. Source: ops/attention/sparse_attention.h and its backward.
// The rows' gradients go to what they were encoded from (Tape::add_encoded).
#pragma once

#include "autograd/tape.h"
#include "ops/attention/sparse_attention.h"
#include "ops/indexer/index_loss.h"

namespace cachalot::autograd {

void sparse_attention(Context ctx, const ops::SparseAttentionParams& p);

// p.dq, p.d_weight and p.d_keys are the tape's, not the caller's; the gradients are written at once
// (an end of the tape).
void index_loss(Context ctx, ops::IndexLossParams p);

}  // namespace cachalot::autograd
