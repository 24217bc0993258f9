// One scalar version: a few operations for each score, beside the thousands of the product that
// made it.
#include "ops/moe/balance_loss.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "device/buffer.h"
#include "ops/elementwise/kernel_dispatch.h"

namespace cachalot::ops {
namespace {

// 1 / (1e-20 + sum of a row's scores): the floor is the router's.
double inverse_sum(const BalanceLossParams& p, int64_t row) {
  const float* scores = p.scores + row * p.n_routed_experts;
  return 1 / std::accumulate(scores, scores + p.n_routed_experts, 1e-20);
}

// load [E] = the sequence's f.
void routed_load(const BalanceLossParams& p, const TokenRange& sequence, double* load) {
  const int64_t k = p.num_experts_per_tok;
  std::fill_n(load, p.n_routed_experts, 0.0);
  for (int64_t i = sequence.first * k; i < sequence.last * k; ++i) load[p.ids[i]] += 1;
  const double factor =
      static_cast<double>(p.n_routed_experts) /
      (static_cast<double>(k) * static_cast<double>(sequence.last - sequence.first));
  for (int64_t e = 0; e < p.n_routed_experts; ++e) load[e] *= factor;
}

void check(const BalanceLossParams& p) {
  CACHALOT_CHECK(p.n_routed_experts >= 1 && p.num_experts_per_tok >= 1);
  for (const TokenRange& s : p.sequences) CACHALOT_CHECK(s.first >= 0 && s.first <= s.last);
}

}  // namespace

double balance_loss(device::ExecContext& ctx, const BalanceLossParams& p, float* loss) {
  check(p);
  const int64_t num_experts = p.n_routed_experts;
  device::ArenaScope scope(*ctx.arena);
  double* scratch = ctx.arena->allocate<double>(ctx.pool->num_threads() * 2 * num_experts);
  ctx.pool->run(static_cast<int64_t>(p.sequences.size()), [&](int64_t s, int worker) {
    const TokenRange& sequence = p.sequences[static_cast<size_t>(s)];
    loss[s] = 0;
    if (sequence.first == sequence.last) return;
    double* load = scratch + worker * 2 * num_experts;
    double* affinity = load + num_experts;  // T * P
    routed_load(p, sequence, load);
    std::fill_n(affinity, num_experts, 0.0);
    for (int64_t row = sequence.first; row < sequence.last; ++row) {
      const double inverse = inverse_sum(p, row);
      const float* scores = p.scores + row * num_experts;
      for (int64_t e = 0; e < num_experts; ++e) affinity[e] += scores[e] * inverse;
    }
    double sum = 0;
    for (int64_t e = 0; e < num_experts; ++e) sum += load[e] * affinity[e];
    loss[s] =
        static_cast<float>(p.alpha * (sum / static_cast<double>(sequence.last - sequence.first)));
  });
  return std::accumulate(loss, loss + p.sequences.size(), 0.0);
}

void balance_loss_backward(device::ExecContext& ctx, const BalanceLossParams& p,
                           const float* d_loss, float* d_scores) {
  check(p);
  const int64_t num_experts = p.n_routed_experts;
  device::ArenaScope scope(*ctx.arena);
  double* load = ctx.arena->allocate<double>(num_experts);
  for (size_t s = 0; s < p.sequences.size(); ++s) {
    const TokenRange& sequence = p.sequences[s];
    const int64_t num_tokens = sequence.last - sequence.first;
    routed_load(p, sequence, load);
    const double factor =
        static_cast<double>(d_loss[s]) * p.alpha / static_cast<double>(num_tokens);
    for_row_blocks(ctx, num_tokens, 4 * num_experts, [&](int64_t first, int64_t last) {
      for (int64_t row = sequence.first + first; row < sequence.first + last; ++row) {
        const double inverse = inverse_sum(p, row);
        const float* scores = p.scores + row * num_experts;
        // d q_i / d s_j = (delta_ij - q_i) / sum.
        double mean_load = 0;
        for (int64_t e = 0; e < num_experts; ++e) mean_load += load[e] * (scores[e] * inverse);
        float* d_row = d_scores + row * num_experts;
        for (int64_t e = 0; e < num_experts; ++e) {
          d_row[e] += static_cast<float>(factor * inverse * (load[e] - mean_load));
        }
      }
    });
  }
}

void add_loads(std::span<const int32_t> ids, std::span<int64_t> counts) {
  for (int32_t id : ids) ++counts[static_cast<size_t>(id)];
}

void bias_update(std::span<const int64_t> counts, float u, std::span<float> bias) {
  CACHALOT_CHECK(counts.size() == bias.size());
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  for (size_t i = 0; i < counts.size(); ++i) {
    const int64_t above_mean = counts[i] * static_cast<int64_t>(counts.size()) - total;
    if (above_mean > 0) bias[i] -= u;
    if (above_mean < 0) bias[i] += u;
  }
}

}  // namespace cachalot::ops
