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

void index_loss(device::ExecContext& ctx, const IndexLossParams& p) {
  CACHALOT_CHECK(p.rows >= 0 && p.heads > 0 && p.dim > 0 && p.ratio > 0 && p.first_position >= 0);
  CACHALOT_CHECK((p.selected == nullptr) == (p.num_selected == nullptr));
  CACHALOT_CHECK(p.selected == nullptr || p.topk > 0);
  CACHALOT_CHECK(p.loss != nullptr);
  if (p.rows == 0 || (p.first_position + p.rows) / p.ratio == 0) return;
  CACHALOT_CHECK((p.dq == nullptr) == (p.d_weight == nullptr) &&
                 (p.dq == nullptr) == (p.d_keys == nullptr));
  const tensor::RowLayout expected = tensor::index_row_layout(p.format, p.dim);
  CACHALOT_CHECK_MSG(
      p.keys.layout.data_bytes == expected.data_bytes &&
          p.keys.layout.scale_bytes == expected.scale_bytes,
      fmt::format("index_loss: key rows of {}+{} bytes, expected {}+{}", p.keys.layout.data_bytes,
                  p.keys.layout.scale_bytes, expected.data_bytes, expected.scale_bytes));
  for (int64_t row = 0; row < p.rows; ++row) {
    const int64_t n = p.selected == nullptr ? (p.first_position + row + 1) / p.ratio
                                            : int64_t{p.num_selected[row]};
    CACHALOT_CHECK(n <= p.target_stride && (p.selected == nullptr || n <= p.topk));
  }
  if (ctx.isa == device::Isa::reference) {
    index_loss_ref(ctx, p);
  } else {
    index_loss_cpu(ctx, p);
  }
}

}  // namespace cachalot::ops
