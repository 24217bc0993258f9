#include "ops/indexer/index_select.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "numeric/formats.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/indexer/index_select_impl.h"
#include "ops/on_gpu.h"
#include "ops/quant/row_codec.h"

namespace cachalot::ops {

void index_key(device::Isa isa, const IndexSelectParams& p, int64_t sequence, int64_t e,
               float* key) {
  decode_index_row(isa, p.format, p.layer_rows[sequence].index_keys.row(e), p.dim, key);
  if (p.bf16_math &&
      (p.format == tensor::IndexFormat::fp8 || p.format == tensor::IndexFormat::f32)) {
    for (int64_t k = 0; k < p.dim; ++k) key[k] = numeric::round_to_bf16(key[k]);
  }
}

namespace {

void check_sequence(const IndexSelectParams& p, int64_t s) {
  CACHALOT_CHECK(p.sequences.num_rows(s) >= 0 && p.sequences.first_position[s] >= 0);
  const int64_t max_visible = p.sequences.end_position(s) / p.ratio;
  CACHALOT_CHECK(max_visible <= std::numeric_limits<int32_t>::max());
  if (max_visible <= p.topk) return;
  const tensor::RowLayout found = p.layer_rows[s].index_keys.layout;
  const tensor::RowLayout expected = tensor::index_row_layout(p.format, p.dim);
  CACHALOT_CHECK_MSG(
      found.data_bytes == expected.data_bytes && found.scale_bytes == expected.scale_bytes,
      fmt::format("index_select: key rows of {}+{} bytes, expected {}+{}", found.data_bytes,
                  found.scale_bytes, expected.data_bytes, expected.scale_bytes));
}

// Of rows that see more than they take.
void count(const IndexSelectParams& p, device::Work& work) {
  int64_t scores = 0;
  for (int64_t s = 0; s < p.sequences.count; ++s) {
    for (int64_t i = 0; i < p.sequences.num_rows(s); ++i) {
      const int64_t visible = (p.sequences.first_position[s] + i + 1) / p.ratio;
      if (visible > p.topk) scores += visible;
    }
  }
  int64_t& products = p.format == tensor::IndexFormat::fp4   ? work.fp4_pairs
                      : p.format == tensor::IndexFormat::fp8 ? work.narrow
                                                             : work.wide;
  products += scores * p.heads * p.dim;
}

// Rows that see no more than topk entries take them all; more entries only become visible as
// positions ascend. Returns the first row that sees more, or the sequence's end.
int64_t take_all(const IndexSelectParams& p, int64_t s) {
  int64_t row = p.sequences.first_row[s];
  for (; row < p.sequences.first_row[s + 1]; ++row) {
    const int64_t visible = visible_entries(p, s, row);
    if (visible > p.topk) break;
    int32_t* selected = p.selected + row * p.topk;
    std::iota(selected, selected + visible, 0);
    std::fill(selected + visible, selected + p.topk, -1);
    p.num_selected[row] = static_cast<int32_t>(visible);
  }
  return row;
}

}  // namespace

bool index_select_takes_bf16(device::ExecContext& ctx, const IndexSelectParams& p) {
  return ctx.gpu != nullptr && index_select_cuda_takes_bf16(ctx, p);
}

void index_select(device::ExecContext& ctx, const IndexSelectParams& p) {
  CACHALOT_CHECK(p.q_bf16 == nullptr || index_select_takes_bf16(ctx, p));
  CACHALOT_CHECK(p.heads > 0 && p.dim > 0 && p.topk > 0 && p.ratio > 0);
  if (ctx.work != nullptr) count(p, *ctx.work);
  if (ctx.gpu != nullptr) {
    for (int64_t s = 0; s < p.sequences.count; ++s) check_sequence(p, s);
    return index_select_cuda(ctx, p);
  }
  const device::ArenaScope scope(*ctx.arena);
  auto* scored = ctx.arena->allocate<ScoredRows>(p.sequences.count);
  int64_t count = 0;
  for (int64_t s = 0; s < p.sequences.count; ++s) {
    check_sequence(p, s);
    const int64_t first = take_all(p, s);
    const int64_t last = p.sequences.first_row[s + 1];
    if (first < last) scored[count++] = {s, first, last};
  }
  if (count == 0) return;
  if (ctx.isa == device::Isa::reference) {
    index_select_ref(ctx, p, scored, count);
  } else {
    index_select_cpu(ctx, p, scored, count);
  }
}

void replay_selection(device::ExecContext& ctx, const int32_t* picks, int64_t rows, int64_t topk,
                      int32_t* selected, int32_t* num_selected) {
  for_row_blocks(ctx, rows, topk, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const int32_t* from = picks + row * topk;
      std::copy_n(from, topk, selected + row * topk);
      num_selected[row] = static_cast<int32_t>(std::find(from, from + topk, -1) - from);
    }
  });
}

}  // namespace cachalot::ops
