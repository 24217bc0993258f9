// The keys of one token in the order that attention adds them: window rows, then compressed
// entries.
// Source  reference/forward 3.4, 3.7.
#pragma once

#include <algorithm>

#include "ops/attention/sparse_attention.h"

namespace cachalot::ops {

class KeyList {
 public:
  // row: of the step, one of sequence s.
  KeyList(const SparseAttentionParams& p, int64_t s, int64_t row) : p_(&p), sequence_(s) {
    const int64_t position = p.sequences.position(s, row);
    window_begin_ = std::max<int64_t>(0, position - p.window + 1);
    num_window_ = p.window > 0 ? position + 1 - window_begin_ : 0;
    if (p.ratio > 0) {
      if (p.selected != nullptr) {
        selected_ = p.selected + row * p.topk;
        num_entries_ = p.num_selected[row];
      } else {
        num_entries_ = (position + 1) / p.ratio;
      }
    }
  }

  int64_t size() const { return num_window_ + num_entries_; }
  int64_t num_window() const { return num_window_; }
  int64_t window_begin() const { return window_begin_; }
  int64_t entry(int64_t i) const { return selected_ != nullptr ? selected_[i] : i; }

  tensor::RowRef row(int64_t i) const {
    const tensor::LayerRows& rows = p_->layer_rows[sequence_];
    if (i < num_window_) {
      return tensor::recent_rows(p_->sequences, sequence_, rows.window, p_->step_rows)
          .row(window_begin_ + i);
    }
    return rows.entries.row(entry(i - num_window_));
  }

 private:
  const SparseAttentionParams* p_;
  int64_t sequence_;
  const int32_t* selected_ = nullptr;
  int64_t window_begin_ = 0;
  int64_t num_window_ = 0;
  int64_t num_entries_ = 0;
};

}  // namespace cachalot::ops
