#include "ops/indexer/index_loss.h"

#include <fmt/format.h>

#include <cmath>

#include "base/check.h"
#include "ops/indexer/index_loss_impl.h"

namespace cachalot::ops {

double target_divergence(const float* target, const float* scores, int64_t n, SoftmaxSums softmax) {
  const double log_sum = std::log(double{softmax.sum});
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (target[i] == 0) continue;
    const double log_probability = double{scores[i]} - double{softmax.max} - log_sum;
    sum += target[i] * (std::log(double{target[i]}) - log_probability);
  }
  return sum;
}

namespace {

void check_sequence(const IndexLossParams& p, int64_t s) {
  CACHALOT_CHECK(p.sequences.num_rows(s) >= 0 && p.sequences.first_position[s] >= 0);
  const tensor::RowLayout found = p.layer_rows[s].index_keys.layout;
  const tensor::RowLayout expected = tensor::index_row_layout(p.format, p.dim);
  CACHALOT_CHECK_MSG(
      found.data_bytes == expected.data_bytes && found.scale_bytes == expected.scale_bytes,
      fmt::format("index_loss: key rows of {}+{} bytes, expected {}+{}", found.data_bytes,
                  found.scale_bytes, expected.data_bytes, expected.scale_bytes));
  for (int64_t row = p.sequences.first_row[s]; row < p.sequences.first_row[s + 1]; ++row) {
    const int64_t n = p.selected == nullptr ? (p.sequences.position(s, row) + 1) / p.ratio
                                            : int64_t{p.num_selected[row]};
    CACHALOT_CHECK(n <= p.target_stride && (p.selected == nullptr || n <= p.topk));
  }
}

}  // namespace

void index_loss(device::ExecContext& ctx, const IndexLossParams& p) {
  CACHALOT_CHECK(p.heads > 0 && p.dim > 0 && p.ratio > 0);
  CACHALOT_CHECK((p.selected == nullptr) == (p.num_selected == nullptr));
  CACHALOT_CHECK(p.selected == nullptr || p.topk > 0);
  CACHALOT_CHECK(p.loss != nullptr);
  CACHALOT_CHECK((p.dq == nullptr) == (p.d_weight == nullptr));
  float* d_keys = p.d_keys;
  for (int64_t s = 0; s < p.sequences.count; ++s) {
    if (p.sequences.num_rows(s) == 0 || p.sequences.end_position(s) / p.ratio == 0) continue;
    check_sequence(p, s);
    CACHALOT_CHECK((p.dq == nullptr) == (p.d_keys == nullptr));
    CACHALOT_CHECK_MSG(p.dq == nullptr || p.sequences.first_position[s] == 0,
                       "index_loss: keys of earlier steps have no gradient");
    if (ctx.isa == device::Isa::reference) {
      index_loss_ref(ctx, p, s, d_keys);
    } else {
      index_loss_cpu(ctx, p, s, d_keys);
    }
    if (d_keys != nullptr) d_keys += p.sequences.num_entries(s, p.ratio) * p.dim;
  }
}

}  // namespace cachalot::ops
