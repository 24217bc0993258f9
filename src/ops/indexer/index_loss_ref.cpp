// The definition of index_loss: plain loops, token after token on one thread, since tokens add into
// the same keys.
#include <cmath>
#include <limits>

#include "ops/attention/ref_chain.h"
#include "ops/elementwise/exp.h"
#include "ops/indexer/index_loss_impl.h"
#include "ops/quant/row_codec.h"

namespace cachalot::ops {
namespace {

// Of one token.
struct Scratch {
  float* keys;      // [n, dim]
  float* dots;      // [heads, n]
  float* scores;    // [n]
  float* d_scores;  // [n]
};

SoftmaxSums softmax(const float* scores, int64_t n, float* p) {
  float max = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) max = scores[i] > max ? scores[i] : max;
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += (p[i] = exp_f32(scores[i] - max));
  return {max, sum};
}

void add_gradients(const IndexLossParams& p, int64_t row, const IndexLossEntries& entries,
                   const Scratch& s, float* d_keys) {
  for (int64_t h = 0; h < p.heads; ++h) {
    const int64_t head = row * p.heads + h;
    for (int64_t i = 0; i < entries.n; ++i) {
      const float dot = s.dots[h * entries.n + i];
      p.d_weight[head] = std::fma(s.d_scores[i], dot > 0 ? dot : 0.0f, p.d_weight[head]);
      const float u = dot > 0 ? s.d_scores[i] * p.weight[head] : 0.0f;
      extend_chains(&u, s.keys + i * p.dim, nullptr, p.dim, false, p.dq + head * p.dim);
      extend_chains(&u, p.q + head * p.dim, nullptr, p.dim, false,
                    d_keys + entries.entry(i) * p.dim);
    }
  }
}

void add_token(const IndexLossParams& p, int64_t sequence, int64_t row, const Scratch& s,
               float* d_keys) {
  const IndexLossEntries entries(p, sequence, row);
  const tensor::RowBlocks& keys = p.layer_rows[sequence].index_keys;
  const int64_t n = entries.n;
  if (n == 0) return;
  const float* target = p.target + row * p.target_stride;
  for (int64_t i = 0; i < n; ++i) {
    float* key = s.keys + i * p.dim;
    decode_index_row(device::Isa::reference, p.format, keys.row(entries.entry(i)), p.dim, key);
    s.scores[i] = 0;
    for (int64_t h = 0; h < p.heads; ++h) {
      const int64_t head = row * p.heads + h;
      const float dot = chain(p.q + head * p.dim, key, p.dim, false);
      s.dots[h * n + i] = dot;
      s.scores[i] = std::fma(dot > 0 ? dot : 0.0f, p.weight[head], s.scores[i]);
    }
  }
  const SoftmaxSums sums = softmax(s.scores, n, s.d_scores);
  *p.loss += target_divergence(target, s.scores, n, sums);
  if (p.dq == nullptr) return;
  for (int64_t i = 0; i < n; ++i) {
    s.d_scores[i] = p.d_loss * (s.d_scores[i] / sums.sum - target[i]);
  }
  add_gradients(p, row, entries, s, d_keys);
}

}  // namespace

void index_loss_ref(device::ExecContext& ctx, const IndexLossParams& p, int64_t s, float* d_keys) {
  const int64_t max_entries = p.target_stride;
  const device::ArenaScope scope(*ctx.arena);
  const Scratch scratch = {ctx.arena->allocate<float>(max_entries * p.dim),
                           ctx.arena->allocate<float>(max_entries * p.heads),
                           ctx.arena->allocate<float>(max_entries),
                           ctx.arena->allocate<float>(max_entries)};
  for (int64_t row = p.sequences.first_row[s]; row < p.sequences.first_row[s + 1]; ++row)
    add_token(p, s, row, scratch, d_keys);
}

}  // namespace cachalot::ops
