// sparse_attention_backward on vectors. The rows go by in blocks whose coefficients fit a bound; a
// block has two phases. By tokens: scores and b in one product (the token's queries and gradients
// of outputs are the panel's lanes), P and g from them, dq. By key rows and channels: what the
// block's tokens add to the rows, in order of tokens.
//
// Scratch: the call's keys decoded, and kMaxCoefficients.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/attention/attention_kernels.h"
#include "ops/attention/backward_kernels.h"
#include "ops/attention/key_gradient.h"
#include "ops/attention/key_rows.h"
#include "ops/attention/query_gradient.h"
#include "ops/attention/sparse_attention_backward_impl.h"

namespace cachalot::ops {
namespace {

constexpr int64_t kTileKeys = 64;
int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

class AttentionBackward {
 public:
  AttentionBackward(device::ExecContext& ctx, const SparseAttentionBackwardParams& p,
                    const SequenceGradients& at)
      : ctx_(ctx),
        p_(p),
        f_(p.forward),
        at_(at),
        first_row_(f_.sequences.first_row[at.sequence]),
        last_row_(f_.sequences.first_row[at.sequence + 1]),
        isa_(vector_isa(ctx.isa, p.forward.heads)),
        kernels_(attention_kernels(isa_, false, p.forward.heads)),
        backward_(backward_kernels(isa_)),
        head_lanes_(round_up(f_.heads, kernels_.lanes)),
        padded_dim_(round_up(f_.head_dim, kernels_.channel_lanes)),
        scope_(*ctx.arena),
        rows_(ctx, f_, at.sequence, padded_dim_) {
    for (int64_t row = first_row_; row < last_row_; ++row) {
      max_keys_ = std::max(max_keys_, keys_of(row).size());
    }
  }

  void run();

 private:
  struct Scratch {
    const std::byte** list;  // a token's decoded keys
    float* rows;             // queries, then gradients of outputs, [2 * head_lanes_, head_dim]
    float* prepared;
    float* max;   // [2 * head_lanes_]
    float* z;     // [head_lanes_]
    float* mean;  // [head_lanes_]
    float* sums;  // [heads, padded_dim_]; null where dq's rows are whole vectors
  };

  Scratch allocate_scratch();
  void allocate_block();
  KeyList keys_of(int64_t row) const { return {f_, at_.sequence, row}; }
  int64_t num_coefficients(int64_t row) const { return keys_of(row).size() * 2 * head_lanes_; }
  void add_block(int64_t first_row, int64_t last_row);
  void token(int64_t row, int64_t idx, float* a, const Scratch& s);
  void describe(int64_t row, int64_t idx, const float* a);

  device::ExecContext& ctx_;
  const SparseAttentionBackwardParams& p_;
  const SparseAttentionParams& f_;
  SequenceGradients at_;
  int64_t first_row_;
  int64_t last_row_;
  device::Isa isa_;
  const AttentionKernels& kernels_;
  const BackwardKernels& backward_;
  int64_t head_lanes_;
  int64_t padded_dim_;
  device::ArenaScope scope_;
  KeyRows rows_;
  int64_t max_keys_ = 0;
  // Of a block.
  float* coefficients_ = nullptr;  // a token's [keys][P, g of head_lanes_], one token after another
  float** token_coefficients_ = nullptr;
  TokenKeys* window_keys_ = nullptr;
  TokenKeys* entry_keys_ = nullptr;
  KeyTerms* terms_ = nullptr;
  float* d_sink_terms_ = nullptr;  // [token][P_sink, B / scale of heads]
};

AttentionBackward::Scratch AttentionBackward::allocate_scratch() {
  device::Arena& arena = *ctx_.arena;
  const int64_t query_stride = round_up(f_.head_dim, 2);
  Scratch s;
  s.list = arena.allocate<const std::byte*>(max_keys_);
  s.rows = arena.allocate<float>(2 * head_lanes_ * f_.head_dim);
  s.prepared = arena.allocate<float>(2 * head_lanes_ * query_stride);
  s.max = arena.allocate<float>(2 * head_lanes_);
  s.z = arena.allocate<float>(head_lanes_);
  s.mean = arena.allocate<float>(head_lanes_);
  s.sums = padded_dim_ == f_.head_dim ? nullptr : arena.allocate<float>(f_.heads * padded_dim_);
  std::fill_n(s.rows, 2 * head_lanes_ * f_.head_dim, 0.0f);
  return s;
}

void AttentionBackward::allocate_block() {
  const CoefficientBlocks blocks = measure_coefficient_blocks(
      first_row_, last_row_, [this](int64_t row) { return num_coefficients(row); });
  device::Arena& arena = *ctx_.arena;
  coefficients_ = arena.allocate<float>(blocks.max_coefficients);
  token_coefficients_ = arena.allocate<float*>(blocks.max_tokens);
  window_keys_ = arena.allocate<TokenKeys>(blocks.max_tokens);
  entry_keys_ = arena.allocate<TokenKeys>(blocks.max_tokens);
  terms_ = arena.allocate<KeyTerms>(blocks.max_tokens);
  d_sink_terms_ = arena.allocate<float>(blocks.max_tokens * 2 * f_.heads);
}

void AttentionBackward::run() {
  allocate_block();
  const int64_t num_workers = ctx_.pool->num_threads();
  Scratch* scratch = ctx_.arena->allocate<Scratch>(num_workers);
  for (int64_t i = 0; i < num_workers; ++i) scratch[i] = allocate_scratch();

  for (int64_t first = first_row_; first < last_row_;) {
    const int64_t last = coefficient_block_end(
        first, last_row_, [this](int64_t row) { return num_coefficients(row); });
    float* a = coefficients_;
    for (int64_t row = first; row < last; ++row) {
      token_coefficients_[row - first] = a;
      a += num_coefficients(row);
    }
    ctx_.pool->run(last - first, [&](int64_t idx, int worker) {
      token(first + idx, idx, token_coefficients_[idx], scratch[worker]);
      describe(first + idx, idx, token_coefficients_[idx]);
    });
    add_block(first, last);
    first = last;
  }
}

// P and g of a token's keys, into a; its dq and what it gives the sinks.
void AttentionBackward::token(int64_t row, int64_t idx, float* a, const Scratch& s) {
  const KeyList keys = keys_of(row);
  const int64_t n = keys.size();
  const int64_t c = f_.head_dim;
  const int64_t stride = 2 * head_lanes_;
  float* sink_terms = d_sink_terms_ + idx * 2 * f_.heads;
  std::fill_n(sink_terms, 2 * f_.heads, 0.0f);
  if (n == 0) return;
  rows_.list(keys, s.list);

  std::copy_n(f_.q + row * f_.heads * c, f_.heads * c, s.rows);
  std::copy_n(p_.dout + row * f_.heads * c, f_.heads * c, s.rows + head_lanes_ * c);
  kernels_.prepare_q(s.rows, stride, c, s.prepared);
  std::fill_n(s.max, stride, -std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < n; i += kTileKeys) {
    kernels_.score(s.prepared, stride, c, s.list + i, std::min(kTileKeys, n - i), f_.scale, false,
                   a + i * stride, s.max);
  }
  std::fill_n(s.z, head_lanes_, 0.0f);
  kernels_.weigh(a, stride, n, 0, head_lanes_, s.max, false, s.z);
  for (int64_t h = 0; h < f_.heads; ++h) {
    s.z[h] += exp_f32(f_.sink[h] - s.max[h]);
    sink_terms[h] = sink_probability(f_.sink[h], s.max[h], s.z[h]);
  }
  backward_.attention_gradients(a, head_lanes_, n, s.z, s.mean);
  for (int64_t h = 0; h < f_.heads; ++h) sink_terms[f_.heads + h] = s.mean[h] / f_.scale;
  add_query_gradients(kernels_, {a + head_lanes_, stride, f_.heads, s.list, n, c, padded_dim_},
                      s.sums, p_.dq + row * f_.heads * c);
}

// What a token has for its keys' rows: g q of every head, then P dout.
void AttentionBackward::describe(int64_t row, int64_t idx, const float* a) {
  const KeyList keys = keys_of(row);
  const int64_t c = f_.head_dim;
  window_keys_[idx] = {nullptr, keys.window_begin(), keys.num_window(), a};
  entry_keys_[idx] = {f_.selected == nullptr ? nullptr : f_.selected + row * f_.topk, 0,
                      keys.size() - keys.num_window(), a + keys.num_window() * 2 * head_lanes_};
  const int64_t first = row * f_.heads * c;
  terms_[idx] = {{{f_.q + first, head_lanes_}, {p_.dout + first, 0}}, 2, f_.heads, c};
}

void AttentionBackward::add_block(int64_t first_row, int64_t last_row) {
  const int64_t num_tokens = last_row - first_row;
  KeyGradientParams d{window_keys_, terms_, num_tokens, 2 * head_lanes_, f_.head_dim, at_.d_recent};
  if (f_.window > 0) add_key_gradients(ctx_, d);
  d.tokens = entry_keys_;
  d.d = at_.d_entries;
  if (f_.ratio > 0) add_key_gradients(ctx_, d);
  // One fma a token and head, beside 5 head_dim of them a key.
  for (int64_t t = 0; t < num_tokens; ++t) {
    const float* terms = d_sink_terms_ + t * 2 * f_.heads;
    for (int64_t h = 0; h < f_.heads; ++h) {
      p_.d_sink[h] = std::fma(-terms[h], terms[f_.heads + h], p_.d_sink[h]);
    }
  }
}

}  // namespace

void sparse_attention_backward_cpu(device::ExecContext& ctx, const SparseAttentionBackwardParams& p,
                                   const SequenceGradients& at) {
  AttentionBackward(ctx, p, at).run();
}

}  // namespace cachalot::ops
