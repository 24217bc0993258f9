#include "ops/attention/attention_target.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "ops/attention/attention_kernels.h"
#include "ops/attention/backward_kernels.h"
#include "ops/attention/key_rows.h"
#include "ops/attention/ref_chain.h"
#include "ops/attention/sparse_attention_impl.h"
#include "ops/elementwise/exp.h"
#include "ops/quant/row_codec.h"

namespace cachalot::ops {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// The entries' sums a [n] become the token's target.
void normalise(float* a, int64_t n, int64_t stride) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i];
  if (sum > 0) {
    for (int64_t i = 0; i < n; ++i) a[i] /= sum;
  }
  std::fill(a + n, a + stride, 0.0f);
}

void target_ref(device::ExecContext& ctx, const SparseAttentionParams& p, int64_t s,
                int64_t max_keys, int64_t stride, float* target) {
  const device::ArenaScope scope(*ctx.arena);
  const int64_t c = p.head_dim;
  const int64_t num_floats = max_keys * (c + 1);
  float* scratch = ctx.arena->allocate<float>(ctx.pool->num_threads() * num_floats);
  ctx.pool->run(p.sequences.num_rows(s), [&](int64_t idx, int worker) {
    const int64_t row = p.sequences.first_row[s] + idx;
    const KeyList keys(p, s, row);
    const int64_t n = keys.size();
    float* rows = scratch + worker * num_floats;
    float* scores = rows + max_keys * c;
    for (int64_t i = 0; i < n; ++i) {
      decode_kv_row(device::Isa::reference, p.format, keys.row(i), c, p.rope_dim, rows + i * c);
    }
    const int64_t num_entries = n - keys.num_window();
    float* sums = target + row * stride;
    std::fill_n(sums, num_entries, 0.0f);
    for (int64_t h = 0; h < p.heads; ++h) {
      float max = kLowest;
      for (int64_t i = 0; i < n; ++i) {
        scores[i] = chain(p.q + (row * p.heads + h) * c, rows + i * c, c, false) * p.scale;
        max = scores[i] > max ? scores[i] : max;
      }
      float z = 0;
      for (int64_t i = 0; i < n; ++i) z += (scores[i] = exp_f32(scores[i] - max));
      z += exp_f32(p.sink[h] - max);
      for (int64_t i = 0; i < num_entries; ++i) {
        sums[i] = std::fma(scores[keys.num_window() + i], 1 / z, sums[i]);
      }
    }
    normalise(sums, num_entries, stride);
  });
}

// As sparse_attention's scores and weights, lane = head; the sum over heads is an index score whose
// dot products are the weights.
class Target {
 public:
  Target(device::ExecContext& ctx, const SparseAttentionParams& p, int64_t sequence,
         int64_t max_keys, int64_t stride, float* target)
      : ctx_(ctx),
        p_(p),
        sequence_(sequence),
        isa_(vector_isa(ctx.isa, p.heads)),
        kernels_(attention_kernels(isa_, false, p.heads)),
        backward_(backward_kernels(isa_)),
        head_lanes_((p.heads + kernels_.lanes - 1) / kernels_.lanes * kernels_.lanes),
        max_keys_(max_keys),
        stride_(stride),
        target_(target) {}

  void run() {
    const device::ArenaScope scope(*ctx_.arena);
    device::Arena& arena = *ctx_.arena;
    const KeyRows keys(ctx_, p_, sequence_, p_.head_dim);
    const int64_t num_workers = ctx_.pool->num_threads();
    Scratch* scratch = arena.allocate<Scratch>(num_workers);
    for (int64_t i = 0; i < num_workers; ++i) {
      scratch[i] = {arena.allocate<const std::byte*>(max_keys_),
                    arena.allocate<float>(head_lanes_ * (p_.head_dim + 1)),
                    arena.allocate<float>(max_keys_ * head_lanes_),
                    arena.allocate<float>(head_lanes_), arena.allocate<float>(head_lanes_)};
    }
    ctx_.pool->run(p_.sequences.num_rows(sequence_), [&](int64_t idx, int worker) {
      token(p_.sequences.first_row[sequence_] + idx, keys, scratch[worker]);
    });
  }

 private:
  struct Scratch {
    const std::byte** list;
    float* prepared;  // [head_dim rounded up to even][head_lanes_]
    float* weights;   // [n][head_lanes_]
    float* max;       // [head_lanes_]
    float* z;         // [head_lanes_], then its reciprocal
  };

  void token(int64_t row, const KeyRows& rows, const Scratch& s) const {
    constexpr int64_t kTileKeys = 64;
    const KeyList keys(p_, sequence_, row);
    const int64_t n = keys.size();
    rows.list(keys, s.list);
    kernels_.prepare_q(p_.q + row * p_.heads * p_.head_dim, p_.heads, p_.head_dim, s.prepared);
    std::fill_n(s.max, head_lanes_, kLowest);
    for (int64_t i = 0; i < n; i += kTileKeys) {
      kernels_.score(s.prepared, head_lanes_, p_.head_dim, s.list + i, std::min(kTileKeys, n - i),
                     p_.scale, false, s.weights + i * head_lanes_, s.max);
    }
    std::fill_n(s.z, head_lanes_, 0.0f);
    kernels_.weigh(s.weights, head_lanes_, n, 0, head_lanes_, s.max, false, s.z);
    for (int64_t h = 0; h < p_.heads; ++h) {
      s.z[h] = 1 / (s.z[h] + exp_f32(p_.sink[h] - s.max[h]));
    }
    float* sums = target_ + row * stride_;
    const int64_t num_entries = n - keys.num_window();
    backward_.index_scores(s.weights + keys.num_window() * head_lanes_, head_lanes_, p_.heads,
                           num_entries, s.z, sums);
    normalise(sums, num_entries, stride_);
  }

  device::ExecContext& ctx_;
  const SparseAttentionParams& p_;
  int64_t sequence_;
  device::Isa isa_;
  const AttentionKernels& kernels_;
  const BackwardKernels& backward_;
  int64_t head_lanes_;
  int64_t max_keys_;
  int64_t stride_;
  float* target_;
};

}  // namespace

void attention_target(device::ExecContext& ctx, const SparseAttentionParams& forward,
                      int64_t stride, float* target) {
  check_sparse_attention(forward);
  CACHALOT_CHECK(forward.ratio > 0);
  const tensor::Sequences& sequences = forward.sequences;
  for (int64_t s = 0; s < sequences.count; ++s) {
    int64_t max_keys = 1;
    for (int64_t row = sequences.first_row[s]; row < sequences.first_row[s + 1]; ++row) {
      const KeyList keys(forward, s, row);
      CACHALOT_CHECK(keys.size() - keys.num_window() <= stride);
      max_keys = std::max(max_keys, keys.size());
    }
    if (ctx.isa == device::Isa::reference) {
      target_ref(ctx, forward, s, max_keys, stride, target);
    } else if (sequences.num_rows(s) > 0) {
      Target(ctx, forward, s, max_keys, stride, target).run();
    }
  }
}

}  // namespace cachalot::ops
