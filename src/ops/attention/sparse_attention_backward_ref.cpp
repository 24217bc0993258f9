// The definition of sparse_attention_backward: plain loops, token after token on one thread, since
// tokens add into the same rows.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/attention/key_list.h"
#include "ops/attention/ref_chain.h"
#include "ops/attention/sparse_attention_backward_impl.h"
#include "ops/quant/row_codec.h"

namespace cachalot::ops {
namespace {

// Of one token.
struct Scratch {
  float* keys;           // [n, head_dim]
  float* probabilities;  // [heads, n]
  float* gradients;      // g [heads, n]
};

// P and g of one head; its sink's gradient.
void head_gradients(const SparseAttentionParams& p, const float* q, const float* dout,
                    const float* keys, int64_t n, float sink, float* probabilities,
                    float* gradients, float* d_sink) {
  const int64_t c = p.head_dim;
  float max = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) {
    probabilities[i] = chain(q, keys + i * c, c, false) * p.scale;
    gradients[i] = chain(dout, keys + i * c, c, false) * p.scale;
    max = probabilities[i] > max ? probabilities[i] : max;
  }
  float z = 0;
  for (int64_t i = 0; i < n; ++i) {
    probabilities[i] = exp_f32(probabilities[i] - max);
    z += probabilities[i];
  }
  z += exp_f32(sink - max);
  float mean = 0;
  for (int64_t i = 0; i < n; ++i) {
    probabilities[i] /= z;
    mean = std::fma(probabilities[i], gradients[i], mean);
  }
  for (int64_t i = 0; i < n; ++i) gradients[i] = probabilities[i] * (gradients[i] - mean);
  *d_sink = std::fma(-sink_probability(sink, max, z), mean / p.scale, *d_sink);
}

void add_token(const SparseAttentionBackwardParams& p, const SequenceGradients& at, int64_t row,
               const Scratch& s) {
  const SparseAttentionParams& f = p.forward;
  const KeyList keys(f, at.sequence, row);
  const int64_t n = keys.size();
  const int64_t c = f.head_dim;
  const float* q = f.q + row * f.heads * c;
  const float* dout = p.dout + row * f.heads * c;
  float* dq = p.dq + row * f.heads * c;
  if (n == 0) return;
  for (int64_t i = 0; i < n; ++i) {
    decode_kv_row(device::Isa::reference, f.format, keys.row(i), c, f.rope_dim, s.keys + i * c);
  }
  for (int64_t h = 0; h < f.heads; ++h) {
    head_gradients(f, q + h * c, dout + h * c, s.keys, n, f.sink[h], s.probabilities + h * n,
                   s.gradients + h * n, p.d_sink + h);
    for (int64_t i = 0; i < n; ++i) {
      extend_chains(s.gradients + h * n + i, s.keys + i * c, nullptr, c, false, dq + h * c);
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    float* d = i < keys.num_window() ? at.d_recent + (keys.window_begin() + i) * c
                                     : at.d_entries + keys.entry(i - keys.num_window()) * c;
    for (int64_t h = 0; h < f.heads; ++h) {
      extend_chains(s.gradients + h * n + i, q + h * c, nullptr, c, false, d);
    }
    for (int64_t h = 0; h < f.heads; ++h) {
      extend_chains(s.probabilities + h * n + i, dout + h * c, nullptr, c, false, d);
    }
  }
}

}  // namespace

void sparse_attention_backward_ref(device::ExecContext& ctx, const SparseAttentionBackwardParams& p,
                                   const SequenceGradients& at) {
  const SparseAttentionParams& f = p.forward;
  const int64_t first_row = f.sequences.first_row[at.sequence];
  const int64_t last_row = f.sequences.first_row[at.sequence + 1];
  int64_t max_keys = 0;
  for (int64_t row = first_row; row < last_row; ++row)
    max_keys = std::max(max_keys, KeyList(f, at.sequence, row).size());
  const device::ArenaScope scope(*ctx.arena);
  const Scratch scratch = {ctx.arena->allocate<float>(max_keys * f.head_dim),
                           ctx.arena->allocate<float>(max_keys * f.heads),
                           ctx.arena->allocate<float>(max_keys * f.heads)};
  for (int64_t row = first_row; row < last_row; ++row) add_token(p, at, row, scratch);
}

}  // namespace cachalot::ops
