// The decoded keys of one sequence of an attention call, where its tokens' lists find them.
#pragma once

#include "ops/attention/decoded_rows.h"
#include "ops/attention/key_list.h"
#include "ops/quant/row_codec.h"

namespace cachalot::ops {

class KeyRows {
 public:
  // Memory of ctx.arena. The sequence has rows.
  KeyRows(device::ExecContext& ctx, const SparseAttentionParams& p, int64_t s, int64_t padded_dim) {
    const auto decode = [&](tensor::RowRef row, float* x) {
      decode_kv_row(ctx.isa, p.format, row, p.head_dim, p.rope_dim, x);
    };
    const int64_t end = p.sequences.end_position(s);
    const tensor::LayerRows& rows = p.layer_rows[s];
    if (p.window > 0) {
      const int64_t oldest = KeyList(p, s, p.sequences.first_row[s]).window_begin();
      const tensor::RecentRows recent =
          tensor::recent_rows(p.sequences, s, rows.window, p.step_rows);
      window_ = decode_rows(ctx, recent, oldest, end, p.head_dim, padded_dim, decode);
    }
    if (p.ratio > 0) {
      entries_ = decode_rows(ctx, rows.entries, 0, end / p.ratio, p.head_dim, padded_dim, decode);
    }
  }

  // The rows of a token's keys, in order.
  void list(const KeyList& keys, const std::byte** rows) const {
    for (int64_t i = 0; i < keys.num_window(); ++i) rows[i] = window_.row(keys.window_begin() + i);
    for (int64_t i = keys.num_window(); i < keys.size(); ++i) {
      rows[i] = entries_.row(keys.entry(i - keys.num_window()));
    }
  }

 private:
  DecodedRows window_;
  DecodedRows entries_;
};

}  // namespace cachalot::ops
