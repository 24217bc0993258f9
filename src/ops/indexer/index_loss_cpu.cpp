// index_loss on vectors, cut as sparse_attention_backward: blocks of rows in two phases, by tokens
// (dot products with lane = head, scores, softmax, what each head's dot products add), then by keys
// and channels.
#include <algorithm>

#include "ops/attention/attention_kernels.h"
#include "ops/attention/decoded_rows.h"
#include "ops/attention/key_gradient.h"
#include "ops/attention/query_gradient.h"
#include "ops/indexer/index_loss_impl.h"
#include "ops/quant/row_codec.h"

namespace cachalot::ops {
namespace {

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

class IndexLoss {
 public:
  IndexLoss(device::ExecContext& ctx, const IndexLossParams& p, int64_t sequence, float* d_keys)
      : ctx_(ctx),
        p_(p),
        sequence_(sequence),
        first_row_(p.sequences.first_row[sequence]),
        last_row_(p.sequences.first_row[sequence + 1]),
        d_keys_(d_keys),
        isa_(vector_isa(ctx.isa, p.heads)),
        kernels_(attention_kernels(isa_, false, p.heads)),
        backward_(backward_kernels(isa_)),
        head_lanes_(round_up(p.heads, kernels_.lanes)),
        padded_dim_(round_up(p.dim, kernels_.channel_lanes)),
        scope_(*ctx.arena),
        rows_(decode_rows(ctx, p.layer_rows[sequence].index_keys, 0,
                          p.sequences.end_position(sequence) / p.ratio, p.dim, padded_dim_,
                          [&](tensor::RowRef row, float* x) {
                            decode_index_row(ctx.isa, p.format, row, p.dim, x);
                          })) {}

  void run();

 private:
  struct Scratch {
    const std::byte** list;
    float* prepared;
    float* max;       // [head_lanes_], unused
    float* scores;    // [n]
    float* d_scores;  // [n]
    float* weight;    // [head_lanes_]
    float* d_weight;
    float* sums;  // [heads, padded_dim_]
  };

  Scratch allocate_scratch();
  int64_t num_coefficients(int64_t row) const {
    return IndexLossEntries(p_, sequence_, row).n * head_lanes_;
  }
  void token(int64_t row, int64_t idx, float* dots, const Scratch& s);

  device::ExecContext& ctx_;
  const IndexLossParams& p_;
  int64_t sequence_;
  int64_t first_row_;
  int64_t last_row_;
  float* d_keys_;
  device::Isa isa_;
  const AttentionKernels& kernels_;
  const BackwardKernels& backward_;
  int64_t head_lanes_;
  int64_t padded_dim_;
  device::ArenaScope scope_;
  DecodedRows rows_;
  // Of a block.
  float** token_coefficients_ = nullptr;
  double* losses_ = nullptr;
  TokenKeys* keys_ = nullptr;
  KeyTerms* terms_ = nullptr;
};

IndexLoss::Scratch IndexLoss::allocate_scratch() {
  device::Arena& arena = *ctx_.arena;
  Scratch s;
  s.list = arena.allocate<const std::byte*>(p_.target_stride);
  s.prepared = arena.allocate<float>(head_lanes_ * round_up(p_.dim, 2));
  s.max = arena.allocate<float>(head_lanes_);
  s.scores = arena.allocate<float>(p_.target_stride);
  s.d_scores = arena.allocate<float>(p_.target_stride);
  s.weight = arena.allocate<float>(head_lanes_);
  s.d_weight = arena.allocate<float>(head_lanes_);
  s.sums = padded_dim_ == p_.dim ? nullptr : arena.allocate<float>(p_.heads * padded_dim_);
  std::fill_n(s.max, head_lanes_, 0.0f);
  std::fill_n(s.weight, head_lanes_, 0.0f);
  std::fill_n(s.d_weight, head_lanes_, 0.0f);
  return s;
}

void IndexLoss::run() {
  const auto size = [this](int64_t row) { return num_coefficients(row); };
  const CoefficientBlocks blocks = measure_coefficient_blocks(first_row_, last_row_, size);
  device::Arena& arena = *ctx_.arena;
  float* coefficients = arena.allocate<float>(blocks.max_coefficients);
  token_coefficients_ = arena.allocate<float*>(blocks.max_tokens);
  losses_ = arena.allocate<double>(blocks.max_tokens);
  keys_ = arena.allocate<TokenKeys>(blocks.max_tokens);
  terms_ = arena.allocate<KeyTerms>(blocks.max_tokens);
  const int64_t num_workers = ctx_.pool->num_threads();
  Scratch* scratch = arena.allocate<Scratch>(num_workers);
  for (int64_t i = 0; i < num_workers; ++i) scratch[i] = allocate_scratch();

  for (int64_t first = first_row_; first < last_row_;) {
    const int64_t last = coefficient_block_end(first, last_row_, size);
    float* at = coefficients;
    for (int64_t row = first; row < last; ++row) {
      token_coefficients_[row - first] = at;
      at += num_coefficients(row);
    }
    ctx_.pool->run(last - first, [&](int64_t idx, int worker) {
      token(first + idx, idx, token_coefficients_[idx], scratch[worker]);
    });
    for (int64_t row = first; row < last; ++row) *p_.loss += losses_[row - first];
    if (p_.dq != nullptr) {
      add_key_gradients(ctx_, {keys_, terms_, last - first, head_lanes_, p_.dim, d_keys_});
    }
    first = last;
  }
}

void IndexLoss::token(int64_t row, int64_t idx, float* dots, const Scratch& s) {
  constexpr int64_t kTileKeys = 64;
  const IndexLossEntries entries(p_, sequence_, row);
  const int64_t n = entries.n;
  keys_[idx] = {entries.list, 0, n, dots};
  losses_[idx] = 0;
  if (n == 0) return;
  for (int64_t i = 0; i < n; ++i) s.list[i] = rows_.row(entries.entry(i));
  const float* q = p_.q + row * p_.heads * p_.dim;
  kernels_.prepare_q(q, p_.heads, p_.dim, s.prepared);
  for (int64_t i = 0; i < n; i += kTileKeys) {
    kernels_.score(s.prepared, head_lanes_, p_.dim, s.list + i, std::min(kTileKeys, n - i), 1.0f,
                   false, dots + i * head_lanes_, s.max);
  }
  std::copy_n(p_.weight + row * p_.heads, p_.heads, s.weight);
  backward_.index_scores(dots, head_lanes_, p_.heads, n, s.weight, s.scores);
  const float* target = p_.target + row * p_.target_stride;
  const SoftmaxSums sums = backward_.softmax_gradient(s.scores, target, n, p_.d_loss, s.d_scores);
  losses_[idx] = target_divergence(target, s.scores, n, sums);
  if (p_.dq == nullptr) return;

  float* d_weight = p_.d_weight + row * p_.heads;
  std::copy_n(d_weight, p_.heads, s.d_weight);
  backward_.index_gradients(dots, head_lanes_, n, s.d_scores, s.weight, s.d_weight);
  std::copy_n(s.d_weight, p_.heads, d_weight);
  add_query_gradients(kernels_, {dots, head_lanes_, p_.heads, s.list, n, p_.dim, padded_dim_},
                      s.sums, p_.dq + row * p_.heads * p_.dim);
  terms_[idx] = {{{q, 0}, {}}, 1, p_.heads, p_.dim};
}

}  // namespace

void index_loss_cpu(device::ExecContext& ctx, const IndexLossParams& p, int64_t s, float* d_keys) {
  IndexLoss(ctx, p, s, d_keys).run();
}

}  // namespace cachalot::ops
