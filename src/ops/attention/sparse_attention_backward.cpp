#include "ops/attention/sparse_attention_backward.h"

#include "base/check.h"
#include "ops/attention/sparse_attention_backward_impl.h"
#include "ops/attention/sparse_attention_impl.h"

namespace cachalot::ops {

void sparse_attention_backward(device::ExecContext& ctx, const SparseAttentionBackwardParams& p) {
  check_sparse_attention(p.forward);
  CACHALOT_CHECK(p.forward.scale != 0);
  if (p.forward.rows == 0) return;
  CACHALOT_CHECK(p.dout != nullptr && p.dq != nullptr && p.d_sink != nullptr);
  if (p.forward.window > 0) {
    CACHALOT_CHECK_MSG(p.forward.recent.first_position == 0,
                       "sparse_attention_backward: rows of a ring have no gradient");
    CACHALOT_CHECK(p.d_recent != nullptr);
  }
  if (p.forward.ratio > 0 && (p.forward.first_position + p.forward.rows) / p.forward.ratio > 0) {
    CACHALOT_CHECK(p.d_entries != nullptr);
  }
  if (ctx.isa == device::Isa::reference) {
    sparse_attention_backward_ref(ctx, p);
  } else {
    sparse_attention_backward_cpu(ctx, p);
  }
}

}  // namespace cachalot::ops
