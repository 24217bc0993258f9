// The definition of sparse_attention: plain loops, token after token on one thread.
#include <algorithm>
#include <limits>

#include "numeric/formats.h"
#include "ops/attention/key_list.h"
#include "ops/attention/ref_chain.h"
#include "ops/attention/sparse_attention_impl.h"
#include "ops/elementwise/exp.h"
#include "ops/quant/row_codec.h"

namespace cachalot::ops {
namespace {

constexpr int64_t kMaxScores = int64_t{1} << 22;  // heads are taken in groups that fit

// Scores to weights p (rounded to bf16 for bf16 math) in place; returns Z.
float softmax(float* scores, int64_t n, float sink, bool bf16_math) {
  float max = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) max = scores[i] > max ? scores[i] : max;
  float z = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float p = exp_f32(scores[i] - max);
    z = i == 0 ? p : z + p;
    scores[i] = bf16_math ? numeric::round_to_bf16(p) : p;
  }
  return z + exp_f32(sink - max);
}

struct Scratch {
  float* scores;  // [heads of a group, keys]
  float* keys;    // two rows
};

void attend_token(const SparseAttentionParams& p, int64_t sequence, int64_t row, int64_t head_begin,
                  int64_t head_end, const Scratch& s) {
  const KeyList keys(p, sequence, row);
  const int64_t n = keys.size();
  const int64_t c = p.head_dim;
  const float* q = p.q + row * p.heads * c;
  float* out = p.out + row * p.heads * c;
  for (int64_t h = head_begin; h < head_end; ++h) std::fill_n(out + h * c, c, 0.0f);
  if (n == 0) return;

  const auto decode = [&](int64_t i, float* x) {
    decode_kv_row(device::Isa::reference, p.format, keys.row(i), c, p.rope_dim, x);
  };
  for (int64_t i = 0; i < n; ++i) {
    decode(i, s.keys);
    for (int64_t h = head_begin; h < head_end; ++h) {
      s.scores[(h - head_begin) * n + i] = chain(q + h * c, s.keys, c, p.bf16_math) * p.scale;
    }
  }
  float* const first = s.keys;
  float* const second = s.keys + c;
  float* z = second + c;
  for (int64_t h = head_begin; h < head_end; ++h) {
    z[h - head_begin] = softmax(s.scores + (h - head_begin) * n, n, p.sink[h], p.bf16_math);
  }
  const int64_t step = p.bf16_math ? 2 : 1;
  for (int64_t i = 0; i < n; i += step) {
    const bool pair = i + 1 < n;
    decode(i, first);
    if (step == 2 && pair) decode(i + 1, second);
    for (int64_t h = head_begin; h < head_end; ++h) {
      extend_chains(s.scores + (h - head_begin) * n + i, first, pair ? second : nullptr, c,
                    p.bf16_math, out + h * c);
    }
  }
  for (int64_t h = head_begin; h < head_end; ++h) {
    for (int64_t k = 0; k < c; ++k) {
      const float value = out[h * c + k] / z[h - head_begin];
      out[h * c + k] = p.bf16_math ? numeric::round_to_bf16(value) : value;
    }
  }
}

}  // namespace

void sparse_attention_ref(device::ExecContext& ctx, const SparseAttentionParams& p) {
  const tensor::Sequences& sequences = p.sequences;
  int64_t max_keys = 1;
  for (int64_t s = 0; s < sequences.count; ++s) {
    for (int64_t row = sequences.first_row[s]; row < sequences.first_row[s + 1]; ++row)
      max_keys = std::max(max_keys, KeyList(p, s, row).size());
  }
  const int64_t heads_per_group = std::clamp<int64_t>(kMaxScores / max_keys, 1, p.heads);

  const device::ArenaScope scope(*ctx.arena);
  const Scratch scratch = {
      ctx.arena->allocate<float>(heads_per_group * max_keys),
      ctx.arena->allocate<float>(2 * p.head_dim + heads_per_group)};  // two rows and Z
  for (int64_t s = 0; s < sequences.count; ++s) {
    for (int64_t row = sequences.first_row[s]; row < sequences.first_row[s + 1]; ++row) {
      for (int64_t head = 0; head < p.heads; head += heads_per_group)
        attend_token(p, s, row, head, std::min(p.heads, head + heads_per_group), scratch);
    }
  }
}

}  // namespace cachalot::ops
