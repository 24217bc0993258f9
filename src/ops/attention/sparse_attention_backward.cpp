#include "ops/attention/sparse_attention_backward.h"

#include "base/check.h"
#include "ops/attention/sparse_attention_backward_impl.h"
#include "ops/attention/sparse_attention_impl.h"

namespace cachalot::ops {

void sparse_attention_backward(device::ExecContext& ctx, const SparseAttentionBackwardParams& p) {
  check_sparse_attention(p.forward);
  CACHALOT_CHECK(p.forward.scale != 0);
  const tensor::Sequences& sequences = p.forward.sequences;
  if (sequences.rows() == 0) return;
  CACHALOT_CHECK(p.dout != nullptr && p.dq != nullptr && p.d_sink != nullptr);
  CACHALOT_CHECK(p.forward.window == 0 || p.d_recent != nullptr);
  SequenceGradients at{0, p.d_recent, p.d_entries};
  for (; at.sequence < sequences.count; ++at.sequence) {
    CACHALOT_CHECK_MSG(sequences.first_position[at.sequence] == 0,
                       "sparse_attention_backward: rows of a ring have no gradient");
    const int64_t num_rows = sequences.num_rows(at.sequence);
    const int64_t num_entries = p.forward.ratio > 0 ? num_rows / p.forward.ratio : 0;
    CACHALOT_CHECK(num_entries == 0 || p.d_entries != nullptr);
    if (num_rows == 0) continue;
    if (ctx.isa == device::Isa::reference) {
      sparse_attention_backward_ref(ctx, p, at);
    } else {
      sparse_attention_backward_cpu(ctx, p, at);
    }
    if (p.forward.window > 0) at.d_recent += num_rows * p.forward.head_dim;
    if (num_entries > 0) at.d_entries += num_entries * p.forward.head_dim;
  }
}

}  // namespace cachalot::ops
