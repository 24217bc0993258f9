#include "ops/attention/sparse_attention.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "ops/attention/sparse_attention_impl.h"

namespace cachalot::ops {
namespace {

void check_layout(const char* name, tensor::RowLayout found, tensor::RowLayout expected) {
  CACHALOT_CHECK_MSG(
      found.data_bytes == expected.data_bytes && found.scale_bytes == expected.scale_bytes,
      fmt::format("sparse_attention: {} rows of {}+{} bytes, expected {}+{}", name,
                  found.data_bytes, found.scale_bytes, expected.data_bytes, expected.scale_bytes));
}

}  // namespace

void check_sparse_attention(const SparseAttentionParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.heads > 0 && p.head_dim > 0);
  CACHALOT_CHECK(p.rope_dim >= 0 && p.rope_dim <= p.head_dim);
  CACHALOT_CHECK(p.first_position >= 0 && p.window >= 0 && p.ratio >= 0);
  if (p.rows == 0) return;
  const tensor::RowLayout layout = tensor::kv_row_layout(p.format, p.head_dim, p.rope_dim);
  if (p.window > 0) {
    check_layout("chunk", p.recent.chunk.layout, layout);
    CACHALOT_CHECK(p.recent.first_position <= p.first_position);
    const int64_t oldest = std::max<int64_t>(0, p.first_position - p.window + 1);
    if (oldest < p.recent.first_position) {
      check_layout("ring", p.recent.ring.layout, layout);
      CACHALOT_CHECK(p.recent.ring.base != nullptr);
      CACHALOT_CHECK_MSG(p.recent.ring.capacity >= p.recent.first_position - oldest,
                         fmt::format("sparse_attention: a ring of {} rows, {} needed",
                                     p.recent.ring.capacity, p.recent.first_position - oldest));
    }
  }
  if (p.ratio > 0 && (p.first_position + p.rows) / p.ratio > 0) {
    check_layout("entry", p.entries.layout, layout);
    CACHALOT_CHECK((p.selected == nullptr) == (p.num_selected == nullptr));
    CACHALOT_CHECK(p.selected == nullptr || p.topk > 0);
  }
}

void sparse_attention(device::ExecContext& ctx, const SparseAttentionParams& p) {
  check_sparse_attention(p);
  if (p.rows == 0) return;
  if (ctx.isa == device::Isa::reference) {
    sparse_attention_ref(ctx, p);
  } else {
    sparse_attention_cpu(ctx, p);
  }
}

}  // namespace cachalot::ops
