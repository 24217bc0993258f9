// The versions of sparse_attention_backward behind its one entry. Arguments are already checked.
#pragma once

#include <cmath>

#include "ops/attention/sparse_attention_backward.h"
#include "ops/elementwise/exp.h"

namespace cachalot::ops {

// One sequence, and where the gradients of its rows begin: row = position, row = entry.
struct SequenceGradients {
  int64_t sequence;
  float* d_recent;
  float* d_entries;
};

// The sequence has rows.
void sparse_attention_backward_ref(device::ExecContext& ctx, const SparseAttentionBackwardParams& p,
                                   const SequenceGradients& at);
void sparse_attention_backward_cpu(device::ExecContext& ctx, const SparseAttentionBackwardParams& p,
                                   const SequenceGradients& at);

// P_sink of a head with the maximum score `max` and the sum z. A sum that overflowed is the sink's.
inline float sink_probability(float sink, float max, float z) {
  return std::isinf(z) ? 1.0f : exp_f32(sink - max) / z;
}

}  // namespace cachalot::ops
