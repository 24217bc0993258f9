// The versions of index_loss behind its one entry. Arguments are already checked.
#pragma once

#include <algorithm>

#include "ops/attention/backward_kernels.h"
#include "ops/indexer/index_loss.h"

namespace cachalot::ops {

// One sequence, with rows; d_keys: where the gradients of its keys begin, row = entry.
void index_loss_ref(device::ExecContext& ctx, const IndexLossParams& p, int64_t s, float* d_keys);
void index_loss_cpu(device::ExecContext& ctx, const IndexLossParams& p, int64_t s, float* d_keys);

// The entries of one token that its loss is over.
struct IndexLossEntries {
  IndexLossEntries(const IndexLossParams& p, int64_t s, int64_t row)
      : list(p.selected == nullptr ? nullptr : p.selected + row * p.topk),
        n(p.selected == nullptr ? (p.sequences.position(s, row) + 1) / p.ratio
                                : p.num_selected[row]) {
    const float* target = p.target + row * p.target_stride;
    if (std::all_of(target, target + n, [](float x) { return x == 0; })) n = 0;
  }
  int64_t entry(int64_t i) const { return list == nullptr ? i : list[i]; }

  const int32_t* list;
  int64_t n;  // 0: no loss
};

// KL of a token's target from the softmax of its scores.
double target_divergence(const float* target, const float* scores, int64_t n, SoftmaxSums softmax);

}  // namespace cachalot::ops
