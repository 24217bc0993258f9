#include "ops/attention/sparse_attention.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "ops/attention/sparse_attention_impl.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

void check_layout(const char* name, tensor::RowLayout found, tensor::RowLayout expected) {
  CACHALOT_CHECK_MSG(
      found.data_bytes == expected.data_bytes && found.scale_bytes == expected.scale_bytes,
      fmt::format("sparse_attention: {} rows of {}+{} bytes, expected {}+{}", name,
                  found.data_bytes, found.scale_bytes, expected.data_bytes, expected.scale_bytes));
}

// A score and a value of every head are head_dim products each.
void count(const SparseAttentionParams& p, device::Work& work) {
  int64_t keys = 0;
  for (int64_t s = 0; s < p.sequences.count; ++s) {
    for (int64_t i = 0; i < p.sequences.num_rows(s); ++i) {
      const int64_t end = p.sequences.first_position[s] + i + 1;
      if (p.window > 0) keys += std::min(p.window, end);
      if (p.ratio > 0)
        keys += p.selected != nullptr ? std::min(p.topk, end / p.ratio) : end / p.ratio;
    }
  }
  work.wide += keys * p.heads * 2 * p.head_dim;
}

}  // namespace

void check_sparse_attention(const SparseAttentionParams& p) {
  CACHALOT_CHECK(p.heads > 0 && p.head_dim > 0);
  CACHALOT_CHECK(p.rope_dim >= 0 && p.rope_dim <= p.head_dim);
  CACHALOT_CHECK(p.window >= 0 && p.ratio >= 0);
  CACHALOT_CHECK((p.selected == nullptr) == (p.num_selected == nullptr));
  CACHALOT_CHECK(p.selected == nullptr || p.topk > 0);
  const tensor::RowLayout layout = tensor::kv_row_layout(p.format, p.head_dim, p.rope_dim);
  for (int64_t s = 0; s < p.sequences.count; ++s) {
    const int64_t first_position = p.sequences.first_position[s];
    CACHALOT_CHECK(p.sequences.num_rows(s) >= 0 && first_position >= 0);
    if (p.sequences.num_rows(s) == 0) continue;
    if (p.window > 0) {
      check_layout("step", p.step_rows.layout, layout);
      const tensor::RowRing& ring = p.layer_rows[s].window;
      const int64_t num_before = std::min(first_position, p.window - 1);
      if (num_before > 0) {
        check_layout("ring", ring.layout, layout);
        CACHALOT_CHECK(ring.base != nullptr);
        CACHALOT_CHECK_MSG(ring.capacity >= num_before,
                           fmt::format("sparse_attention: a ring of {} rows, {} needed",
                                       ring.capacity, num_before));
      }
    }
    if (p.ratio > 0 && p.sequences.end_position(s) / p.ratio > 0)
      check_layout("entry", p.layer_rows[s].entries.layout, layout);
  }
}

void sparse_attention(device::ExecContext& ctx, const SparseAttentionParams& p) {
  check_sparse_attention(p);
  CACHALOT_CHECK((p.q_bf16 == nullptr) == (p.out_bf16 == nullptr));
  CACHALOT_CHECK(p.q_bf16 == nullptr || sparse_attention_takes_bf16(ctx, p));
  CACHALOT_CHECK(p.q_bf16 != nullptr || p.raw.table.cos == nullptr);
  if (p.sequences.rows() == 0) return;
  if (ctx.work != nullptr) count(p, *ctx.work);
  if (ctx.gpu != nullptr) return sparse_attention_cuda(ctx, p);
  if (ctx.isa == device::Isa::reference) {
    sparse_attention_ref(ctx, p);
  } else {
    sparse_attention_cpu(ctx, p);
  }
  if (p.rotate_back.cos != nullptr) rope(ctx, rotation_back(p));
}

}  // namespace cachalot::ops
