// The versions of sparse_attention_backward behind its one entry. Arguments are already checked.
#pragma once

#include <cmath>

#include "ops/attention/sparse_attention_backward.h"
#include "ops/elementwise/exp.h"

namespace cachalot::ops {

void sparse_attention_backward_ref(device::ExecContext& ctx,
                                   const SparseAttentionBackwardParams& p);
void sparse_attention_backward_cpu(device::ExecContext& ctx,
                                   const SparseAttentionBackwardParams& p);

// P_sink of a head with the maximum score `max` and the sum z. A sum that overflowed is the sink's.
inline float sink_probability(float sink, float max, float z) {
  return std::isinf(z) ? 1.0f : exp_f32(sink - max) / z;
}

}  // namespace cachalot::ops
