// Attention over cached rows, recorded. Source: ops/attention/sparse_attention.h and its backward.
// The rows' gradients go to what they were encoded from (Tape::add_encoded).
#pragma once

#include "autograd/tape.h"
#include "ops/attention/sparse_attention.h"

namespace cachalot::autograd {

void sparse_attention(Context ctx, const ops::SparseAttentionParams& p);

}  // namespace cachalot::autograd
