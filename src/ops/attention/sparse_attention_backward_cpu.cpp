// sparse_attention_backward on vectors. The rows go by in blocks whose coefficients fit a bound; a
// block has two phases. By tokens: scores and b in one product (the token's queries and gradients
// of outputs are the panel's lanes), P and g from them, dq. By key rows and channels: what the
// block's tokens add to the rows, in order of tokens.
//
// Scratch: the decoded rows of the call, as many floats as its keys have, and kMaxCoefficients.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/attention/attention_kernels.h"
#include "ops/attention/backward_kernels.h"
#include "ops/attention/decoded_rows.h"
#include "ops/attention/key_gradient.h"
#include "ops/attention/key_list.h"
#include "ops/attention/sparse_attention_backward_impl.h"

namespace cachalot::ops {
namespace {

constexpr int64_t kTileKeys = 64;
// Floats of P and g of a block: half of a usual last-level cache of some 16 MiB, since the second
// phase reads what the first wrote.
constexpr int64_t kMaxCoefficients = int64_t{1} << 21;

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

class AttentionBackward {
 public:
  AttentionBackward(device::ExecContext& ctx, const SparseAttentionBackwardParams& p)
      : ctx_(ctx),
        p_(p),
        f_(p.forward),
        isa_(vector_isa(ctx.isa, p.forward.heads)),
        kernels_(attention_kernels(isa_, false)),
        backward_(backward_kernels(isa_)),
        head_lanes_(round_up(f_.heads, kernels_.lanes)),
        padded_dim_(round_up(f_.head_dim, kernels_.channel_lanes)),
        scope_(*ctx.arena) {
    for (int64_t row = 0; row < f_.rows; ++row) {
      max_keys_ = std::max(max_keys_, KeyList(f_, row).size());
    }
    const KeyList first(f_, 0);
    const KeyList last(f_, f_.rows - 1);
    const auto decode = [&](tensor::RowRef row, float* x) {
      decode_kv_row(ctx.isa, f_.format, row, f_.head_dim, f_.rope_dim, x);
    };
    if (f_.window > 0) {
      window_ = decode_rows(ctx, f_.recent.chunk, first.window_begin(), f_.first_position + f_.rows,
                            f_.head_dim, padded_dim_, decode);
    }
    if (f_.ratio > 0) {
      entries_ = decode_rows(ctx, f_.entries, 0, (f_.first_position + f_.rows) / f_.ratio,
                             f_.head_dim, padded_dim_, decode);
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
  int64_t block_end(int64_t first_row) const;
  void add_block(int64_t first_row, int64_t last_row);
  void token(int64_t row, int64_t idx, float* a, const Scratch& s);
  void describe(int64_t row, int64_t idx, const float* a);
  void add_queries(int64_t row, const KeyList& keys, const float* a, const Scratch& s) const;

  device::ExecContext& ctx_;
  const SparseAttentionBackwardParams& p_;
  const SparseAttentionParams& f_;
  device::Isa isa_;
  const AttentionKernels& kernels_;
  const BackwardKernels& backward_;
  int64_t head_lanes_;
  int64_t padded_dim_;
  device::ArenaScope scope_;
  int64_t max_keys_ = 0;
  int64_t max_tokens_ = 0;  // of a block
  DecodedRows window_;
  DecodedRows entries_;
  // Of a block.
  float* coefficients_ = nullptr;  // a token's [keys][P, g of head_lanes_], one token after another
  float** token_coefficients_ = nullptr;
  TokenKeys* window_keys_ = nullptr;
  TokenKeys* entry_keys_ = nullptr;
  KeyTerm* terms_ = nullptr;       // [token][2 * heads]
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

// Rows whose coefficients fit the bound, at least one.
int64_t AttentionBackward::block_end(int64_t first_row) const {
  int64_t left = kMaxCoefficients;
  int64_t row = first_row;
  do {
    left -= KeyList(f_, row++).size() * 2 * head_lanes_;
  } while (row < f_.rows && left >= KeyList(f_, row).size() * 2 * head_lanes_);
  return row;
}

void AttentionBackward::allocate_block() {
  int64_t max_floats = 0;
  for (int64_t first = 0; first < f_.rows;) {
    const int64_t last = block_end(first);
    int64_t num_keys = 0;
    for (int64_t row = first; row < last; ++row) num_keys += KeyList(f_, row).size();
    max_floats = std::max(max_floats, num_keys * 2 * head_lanes_);
    max_tokens_ = std::max(max_tokens_, last - first);
    first = last;
  }
  device::Arena& arena = *ctx_.arena;
  coefficients_ = arena.allocate<float>(max_floats);
  token_coefficients_ = arena.allocate<float*>(max_tokens_);
  window_keys_ = arena.allocate<TokenKeys>(max_tokens_);
  entry_keys_ = arena.allocate<TokenKeys>(max_tokens_);
  terms_ = arena.allocate<KeyTerm>(max_tokens_ * 2 * f_.heads);
  d_sink_terms_ = arena.allocate<float>(max_tokens_ * 2 * f_.heads);
}

void AttentionBackward::run() {
  allocate_block();
  const int64_t num_workers = ctx_.pool->num_threads();
  Scratch* scratch = ctx_.arena->allocate<Scratch>(num_workers);
  for (int64_t i = 0; i < num_workers; ++i) scratch[i] = allocate_scratch();

  for (int64_t first = 0; first < f_.rows;) {
    const int64_t last = block_end(first);
    float* a = coefficients_;
    for (int64_t row = first; row < last; ++row) {
      token_coefficients_[row - first] = a;
      a += KeyList(f_, row).size() * 2 * head_lanes_;
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
  const KeyList keys(f_, row);
  const int64_t n = keys.size();
  const int64_t c = f_.head_dim;
  const int64_t stride = 2 * head_lanes_;
  float* sink_terms = d_sink_terms_ + idx * 2 * f_.heads;
  std::fill_n(sink_terms, 2 * f_.heads, 0.0f);
  if (n == 0) return;
  for (int64_t i = 0; i < keys.num_window(); ++i) s.list[i] = window_.row(keys.window_begin() + i);
  for (int64_t i = keys.num_window(); i < n; ++i) {
    s.list[i] = entries_.row(keys.entry(i - keys.num_window()));
  }

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
  add_queries(row, keys, a, s);
}

void AttentionBackward::add_queries(int64_t row, const KeyList& keys, const float* a,
                                    const Scratch& s) const {
  const int64_t c = f_.head_dim;
  const int64_t stride = 2 * head_lanes_;
  float* dq = p_.dq + row * f_.heads * c;
  float* sums = s.sums == nullptr ? dq : s.sums;
  if (sums != dq) {
    for (int64_t h = 0; h < f_.heads; ++h) {
      float* padded = std::copy_n(dq + h * c, c, sums + h * padded_dim_);
      std::fill(padded, sums + (h + 1) * padded_dim_, 0.0f);
    }
  }
  for (int64_t i = 0; i < keys.size(); i += kTileKeys) {
    kernels_.add_values(a + i * stride + head_lanes_, stride, 0, f_.heads, s.list + i,
                        std::min(kTileKeys, keys.size() - i), 0, padded_dim_, false, true, sums,
                        padded_dim_);
  }
  if (sums != dq) {
    for (int64_t h = 0; h < f_.heads; ++h) std::copy_n(sums + h * padded_dim_, c, dq + h * c);
  }
}

// What a token has for its keys' rows: g q of every head, then P dout.
void AttentionBackward::describe(int64_t row, int64_t idx, const float* a) {
  const KeyList keys(f_, row);
  const int64_t c = f_.head_dim;
  window_keys_[idx] = {nullptr, keys.window_begin(), keys.num_window(), a};
  entry_keys_[idx] = {f_.selected == nullptr ? nullptr : f_.selected + row * f_.topk, 0,
                      keys.size() - keys.num_window(), a + keys.num_window() * 2 * head_lanes_};
  KeyTerm* terms = terms_ + idx * 2 * f_.heads;
  for (int64_t h = 0; h < f_.heads; ++h) {
    terms[h] = {f_.q + (row * f_.heads + h) * c, head_lanes_ + h};
    terms[f_.heads + h] = {p_.dout + (row * f_.heads + h) * c, h};
  }
}

void AttentionBackward::add_block(int64_t first_row, int64_t last_row) {
  const int64_t num_tokens = last_row - first_row;
  KeyGradientParams d{window_keys_,    terms_,      num_tokens, 2 * f_.heads,
                      2 * head_lanes_, f_.head_dim, p_.d_recent};
  if (f_.window > 0) add_key_gradients(ctx_, d);
  d.tokens = entry_keys_;
  d.d = p_.d_entries;
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

void sparse_attention_backward_cpu(device::ExecContext& ctx,
                                   const SparseAttentionBackwardParams& p) {
  AttentionBackward(ctx, p).run();
}

}  // namespace cachalot::ops
