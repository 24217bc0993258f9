// The versions of sparse_attention behind its one entry. Arguments are already checked.
#pragma once

#include "ops/attention/sparse_attention.h"

namespace cachalot::ops {

// Ends the process where the parameters contradict each other.
void check_sparse_attention(const SparseAttentionParams& p);

void sparse_attention_ref(device::ExecContext& ctx, const SparseAttentionParams& p);
void sparse_attention_cpu(device::ExecContext& ctx, const SparseAttentionParams& p);

}  // namespace cachalot::ops
