// The definition of index_select: plain loops, token after token on one thread.
#include <algorithm>
#include <cmath>

#include "numeric/formats.h"
#include "ops/attention/ref_chain.h"
#include "ops/indexer/index_select_impl.h"

namespace cachalot::ops {
namespace {

float score(const IndexSelectParams& p, int64_t row, const float* key) {
  const float* q = p.q + row * p.heads * p.dim;
  const float* weight = p.weight + row * p.heads;
  float sum = 0;
  for (int64_t h = 0; h < p.heads; ++h) {
    float d = chain(q + h * p.dim, key, p.dim, p.bf16_math);
    if (p.round_scores) d = numeric::round_to_bf16(d);
    d = d > 0 ? d : 0;  // the maximum of d and 0; NaN gives 0
    if (p.round_scores) {
      sum += numeric::round_to_bf16(d * weight[h]);
    } else {
      sum = std::fma(d, weight[h], sum);
    }
  }
  return p.round_scores ? numeric::round_to_bf16(sum) : sum;
}

}  // namespace

void index_select_ref(device::ExecContext& ctx, const IndexSelectParams& p,
                      const ScoredRows* scored, int64_t count) {
  int64_t max_visible = 0;
  for (int64_t i = 0; i < count; ++i) {
    max_visible = std::max(max_visible, visible_entries(p, scored[i].sequence, scored[i].last - 1));
  }
  const device::ArenaScope scope(*ctx.arena);
  float* scores = ctx.arena->allocate<float>(max_visible + p.dim);
  float* key = scores + max_visible;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t s = scored[i].sequence;
    for (int64_t row = scored[i].first; row < scored[i].last; ++row) {
      const int64_t visible = visible_entries(p, s, row);
      for (int64_t e = 0; e < visible; ++e) {
        index_key(device::Isa::reference, p, s, e, key);
        scores[e] = score(p, row, key);
      }
      p.num_selected[row] = static_cast<int32_t>(top_k_positions(
          device::Isa::reference, scores, visible, p.topk, p.selected + row * p.topk));
    }
  }
}

}  // namespace cachalot::ops
