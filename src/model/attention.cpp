#include "model/attention.h"

#include <algorithm>
#include <cmath>

#include "autograd/attention_grad.h"
#include "autograd/elementwise_grad.h"
#include "autograd/norm_grad.h"
#include "model/compressor.h"
#include "ops/attention/attention_target.h"
#include "ops/attention/sparse_attention.h"
#include "ops/compressor/compressor.h"
#include "ops/indexer/index_select.h"
#include "ops/matmul/bf16_rows.h"
#include "ops/norm/rms_norm.h"
#include "ops/quant/act_quant.h"
#include "ops/rope/head_rows.h"
#include "ops/rows/together.h"

namespace cachalot::model {
namespace {

using formats::AttentionKind;

bool is_compressed(const formats::LayerConfig& layer) { return layer.ratio > 1; }

// Window layers (and the full-attention ablation) use the plain table; compressed layers one other
// for everything.
ops::RopeTable row_rope(const Step& step, const formats::LayerConfig& layer) {
  return is_compressed(layer) ? step.compressed_rope : step.plain_rope;
}

void rotate(Step& step, Matrix x, int64_t rows, int64_t heads, int64_t head_dim,
            ops::RopeTable table, bool inverse) {
  autograd::rope(step.context(),
                 {x.data, rows, x.stride, heads, head_dim, step.config.qk_rope_head_dim, table,
                  inverse, step.precision.bf16});
}

// Nothing but the result of several ops over x is asked for: they may run as one.
bool needs_results_alone(const Step& step) { return step.tape == nullptr && step.probe == nullptr; }

ops::HeadRowsParams head_rows_of(const Step& step, Matrix x, int64_t heads, int64_t head_dim,
                                 ops::RopeTable table) {
  ops::HeadRowsParams p{};
  p.x = x.data;
  p.rows = step.rows;
  p.row_stride = x.stride;
  p.heads = heads;
  p.head_dim = head_dim;
  p.eps = static_cast<float>(step.config.rms_norm_eps);
  p.rope_dim = step.config.qk_rope_head_dim;
  p.table = table;
  p.round = step.precision.bf16;
  return p;
}

Matrix rows_from(Matrix x, int64_t first) {
  return {x.data + first * x.stride, x.columns, x.stride};
}

// The products over the normed low-rank query qn, which its other readers do not wait for.
struct QueryProducts {
  Matrix q;
  std::optional<Matrix> index_q;  // absent where a tape records: made when it is asked for
};

// parts: without weights yet. has_q: q is made elsewhere; then index_q of rows before
// first_index_row is not made. has_index_q: it is made elsewhere too.
QueryProducts query_products(Step& step, const AttentionWeights& weights, Matrix qn,
                             LinearParts parts = {}, bool has_q = false,
                             int64_t first_index_row = 0, bool has_index_q = false) {
  CACHALOT_CHECK(has_q || (first_index_row == 0 && !has_index_q));
  QueryProducts products{};
  std::optional<Matrix> quantised;  // one for all that ask for it
  const auto add = [&](const ops::PackedWeight& weight, Matrix y) {
    const bool as_it_is = takes_input_as_it_is(step, weight);
    if (!as_it_is && !quantised) quantised = quantised_input(step, qn, step.rows, weight);
    parts.add({rows_from(as_it_is ? qn : *quantised, first_index_row), &weight,
               rows_from(y, first_index_row)});
  };
  if (!has_q) {
    products.q = new_matrix(step, step.rows, weights.wq_b.rows());
    add(weights.wq_b, products.q);
  }
  if (weights.indexer && step.tape == nullptr && !has_index_q) {
    products.index_q = new_matrix(step, step.rows, weights.indexer->wq_b.rows());
    add(weights.indexer->wq_b, *products.index_q);
  }
  linears(step, step.rows - first_index_row, parts);
  return products;
}

// raw: the product; the result [rows, heads * head_dim], normed per head and rotated.
Matrix queries(Step& step, const formats::LayerConfig& layer, Matrix raw) {
  const auto& config = step.config;
  show(step, "q", raw, step.rows);
  const Matrix q = result_over(step, raw, step.rows);
  const ops::RmsNormParams norm{raw.data,
                                config.head_dim,
                                nullptr,
                                q.data,
                                config.head_dim,
                                step.rows * config.num_attention_heads,
                                config.head_dim,
                                static_cast<float>(config.rms_norm_eps),
                                false};
  if (step.precision.bf16) {
    autograd::rms_norm_bf16_steps(step.context(), norm);
  } else {
    autograd::rms_norm(step.context(), norm);
  }
  show(step, "q.head_norm", q, step.rows);
  rotate(step, q, step.rows, config.num_attention_heads, config.head_dim, row_rope(step, layer),
         false);
  show(step, "q.rope", q, step.rows);
  return q;
}

// The products over a sublayer's input. Where a tape records, each runs as late as it did, with
// the others of what needs it: the sum of the input's gradients has that order.
class InputProducts {
 public:
  // x_bf16: x in bf16, or null.
  InputProducts(Step& step, const AttentionWeights& weights, Matrix x, Matrix x_input,
                const uint16_t* x_bf16)
      : step_(step), weights_(weights), x_(x), x_input_(x_input) {
    if (step.tape != nullptr) return;
    LinearParts parts;
    parts.x_bf16 = x_bf16;
    add(weights.wq_a, x_input, low_, parts);
    if (weights.wkv) add(*weights.wkv, x_input, kv_, parts);
    if (weights.compressor) add_compressor(*weights.compressor, x, ks_, parts);
    if (weights.indexer) {
      add_compressor(weights.indexer->compressor, x, index_ks_, parts);
      add(weights.indexer->weights_proj, x, index_weight_, parts);
    }
    linears(step, step.rows, parts);
  }
  Matrix low() { return of(low_, weights_.wq_a, x_input_); }
  Matrix kv() { return of(kv_, *weights_.wkv, x_input_); }
  Matrix ks() { return rows_of(ks_, *weights_.compressor, x_); }
  // x: the input, or what passes no gradient to it.
  Matrix index_ks(Matrix x) { return rows_of(index_ks_, weights_.indexer->compressor, x); }
  Matrix index_weight(Matrix x) { return of(index_weight_, weights_.indexer->weights_proj, x); }

 private:
  void add(const ops::PackedWeight& weight, Matrix x, std::optional<Matrix>& y,
           LinearParts& parts) {
    y = new_matrix(step_, step_.rows, weight.rows());
    parts.add({x, &weight, *y});
  }
  void add_compressor(const CompressorWeights& weights, Matrix x, std::optional<Matrix>& ks,
                      LinearParts& parts) {
    ks = new_compressor_rows(step_, weights);
    add_compressor_products(weights, x, *ks, parts);
  }
  Matrix of(std::optional<Matrix>& y, const ops::PackedWeight& weight, Matrix x) {
    return y ? *y : linear(step_, x, step_.rows, weight);
  }
  Matrix rows_of(std::optional<Matrix>& ks, const CompressorWeights& weights, Matrix x) {
    if (ks) return *ks;
    LinearParts parts;
    add_compressor(weights, x, ks, parts);
    linears(step_, step_.rows, parts);
    return *ks;
  }

  Step& step_;
  const AttentionWeights& weights_;
  const Matrix x_, x_input_;
  std::optional<Matrix> low_, kv_, ks_, index_ks_, index_weight_;
};

// The shared key-value vector of every row, [rows, head_dim], normed, rotated and snapped to what
// its row format holds. raw: its product.
Matrix key_values(Step& step, const formats::LayerConfig& layer, const AttentionWeights& weights,
                  Matrix raw) {
  const auto& config = step.config;
  show(step, "kv", raw, step.rows);
  const Matrix kv =
      rms_norm(step, raw, step.rows, weights.kv_norm, static_cast<float>(config.rms_norm_eps));
  show(step, "kv.norm", kv, step.rows);
  rotate(step, kv, step.rows, 1, config.head_dim, row_rope(step, layer), false);
  show(step, "kv.rope", kv, step.rows);
  snap_kv(step, kv, step.rows);
  show(step, "kv.row", kv, step.rows);
  return kv;
}

struct IndexerQueries {
  Matrix q;                          // [rows, index_n_heads * index_head_dim]
  Matrix weight;                     // [rows, index_n_heads]
  const uint16_t* q_bf16 = nullptr;  // q in bf16 instead
};

float index_weight_factor(const Step& step) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(step.config.index_head_dim) *
                                            static_cast<double>(step.config.index_n_heads)));
}

// Source: reference/forward 3.6.
IndexerQueries indexer_queries(Step& step, const formats::LayerConfig& layer,
                               const IndexerWeights& weights, Matrix qn, Matrix x,
                               std::optional<Matrix> raw, InputProducts& products) {
  const auto& config = step.config;
  const Matrix q = raw ? *raw
                       : linear(step, quantised_input(step, qn, step.rows, weights.wq_b), step.rows,
                                weights.wq_b);
  show(step, "index.q", q, step.rows);
  rotate(step, q, step.rows, config.index_n_heads, config.index_head_dim, row_rope(step, layer),
         false);
  show(step, "index.rope", q, step.rows);
  const ops::RowsParams head_rows{q.data, step.rows * config.index_n_heads, config.index_head_dim,
                                  config.index_head_dim};
  if (step.precision.rotate_index)
    autograd::hadamard(step.context(), head_rows, step.precision.bf16);
  show(step, "index.hadamard", q, step.rows);
  if (step.precision.index_fp4) autograd::simulate_fp4(step.context(), head_rows);
  show(step, "index.row", q, step.rows);

  const Matrix weight = products.index_weight(x);
  show(step, "index.weight", weight, step.rows);
  const float factor = index_weight_factor(step);
  autograd::scale(step.context(), weight.data, step.rows * weight.columns, factor);
  if (step.precision.bf16) {
    autograd::round_bf16(step.context(), {weight.data, step.rows, weight.columns, weight.stride});
  }
  show(step, "index.scaled_weight", weight, step.rows);
  return {q, weight};
}

CompressorOutput main_rows(const Step& step) {
  return {CompressorOutput::Kind::kv, step.config.head_dim};
}
CompressorOutput index_rows(const Step& step) {
  return {CompressorOutput::Kind::index, step.config.index_head_dim};
}

// Fills the layer's compressed rows of every sequence, and its indexer rows where it has an indexer
// of its own.
void compress_rows(Step& step, int64_t layer_idx, const formats::LayerConfig& layer,
                   const AttentionWeights& weights, Matrix x, InputProducts& products) {
  if (weights.compressor) {
    run_compressor(step, layer_idx, layer, *weights.compressor, main_rows(step), products.ks());
  }
  if (weights.indexer) {
    run_compressor(step, layer_idx, layer, weights.indexer->compressor, index_rows(step),
                   products.index_ks(detached(step, x, step.rows)));
  }
}

// But for queries.
ops::IndexSelectParams select_params(const Step& step, int64_t layer_idx,
                                     const formats::LayerConfig& layer) {
  const auto& config = step.config;
  const Selection selection = step.selections[layer_idx];
  ops::IndexSelectParams p{};
  p.heads = config.index_n_heads;
  p.dim = config.index_head_dim;
  p.sequences = step.batch.sequences;
  p.layer_rows = step.batch.layer_rows[layer_idx];
  p.ratio = layer.ratio;
  p.topk = config.index_topk;
  p.format = step.precision.index;
  p.bf16_math = step.precision.bf16;
  p.round_scores = step.precision.bf16;
  p.tensor_cores = step.precision.fp8_cores;
  p.selected = selection.selected;
  p.num_selected = selection.num_selected;
  return p;
}

void select_entries(Step& step, int64_t layer_idx, const formats::LayerConfig& layer,
                    const IndexerQueries& queries) {
  const auto& config = step.config;
  const Selection selection = step.selections[layer_idx];
  if (step.terms != nullptr && step.terms->replay != nullptr) {
    const auto& by_layer = step.terms->replay->selected;
    if (layer_idx < static_cast<int64_t>(by_layer.size()) && !by_layer[layer_idx].empty()) {
      const std::vector<int32_t>& picks = by_layer[layer_idx];
      CACHALOT_CHECK(static_cast<int64_t>(picks.size()) == step.rows * config.index_topk);
      ops::replay_selection(step.exec, picks.data(), step.rows, config.index_topk,
                            selection.selected, selection.num_selected);
      return;
    }
  }
  ops::IndexSelectParams p = select_params(step, layer_idx, layer);
  p.q = queries.q.data;
  p.q_bf16 = queries.q_bf16;
  p.weight = queries.weight.data;
  ops::index_select(step.exec, p);
  if (step.probe == nullptr) return;
  const OnHost<int32_t> selected(step.exec, p.selected, step.rows * p.topk);
  step.probe->on_selection(layer_idx, selected.data(), step.rows);
}

bool is_dense(const Step& step) { return step.terms != nullptr && step.terms->dense_attention; }

// The loss that the indexer learns from (reference/training 6.3), against the attention its entries
// receive.
void indexer_loss(Step& step, int64_t layer_idx, const formats::LayerConfig& layer,
                  const IndexerQueries& queries, const ops::SparseAttentionParams& p) {
  const auto& config = step.config;
  const device::ArenaScope scope(*step.exec.arena);
  int64_t stride = p.topk;
  if (p.selected == nullptr) {
    stride = 1;
    for (int64_t s = 0; s < p.sequences.count; ++s)
      stride = std::max(stride, p.sequences.end_position(s) / layer.ratio);
  }
  auto* target = step.exec.arena->allocate<float>(step.rows * stride);
  ops::attention_target(step.exec, p, stride, target);
  ops::IndexLossParams loss{};
  loss.q = queries.q.data;
  loss.weight = queries.weight.data;
  loss.heads = config.index_n_heads;
  loss.dim = config.index_head_dim;
  loss.sequences = p.sequences;
  loss.layer_rows = step.batch.layer_rows[layer_idx];
  loss.ratio = layer.ratio;
  loss.format = step.precision.index;
  loss.selected = p.selected;
  loss.num_selected = p.num_selected;
  loss.topk = p.topk;
  loss.target = target;
  loss.target_stride = stride;
  loss.loss = &step.terms->indexer_kl;
  loss.d_loss = step.terms->indexer_loss;
  autograd::index_loss(step.context(), loss);
}

// But for queries and results.
ops::SparseAttentionParams core_params(const Step& step, const formats::LayerConfig& layer,
                                       const AttentionWeights& weights) {
  const auto& config = step.config;
  const bool is_full = layer.attention == AttentionKind::full;
  ops::SparseAttentionParams p{};
  p.heads = config.num_attention_heads;
  p.head_dim = config.head_dim;
  p.rope_dim = config.qk_rope_head_dim;
  p.sequences = step.batch.sequences;
  p.layer_rows = step.batch.layer_rows[layer.kv_source];
  p.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)));
  p.sink = weights.attn_sink.data();
  p.window = is_full ? 0 : config.sliding_window;
  if (!is_full) p.step_rows = step.kv_rows[layer.kv_source];
  p.ratio = layer.ratio;
  if (layer.attention == AttentionKind::csa && !is_dense(step)) {
    const Selection& selection = step.selections[layer.index_source];
    p.selected = selection.selected;
    p.num_selected = selection.num_selected;
    p.topk = config.index_topk;
  }
  p.format = step.precision.kv;
  p.bf16_math = step.precision.bf16;
  p.tensor_cores = step.precision.fp8_cores;
  if (needs_results_alone(step)) p.rotate_back = row_rope(step, layer);
  return p;
}

// Source: reference/forward 3.7. out [rows, heads * head_dim], rotated back.
Matrix core_attention(Step& step, int64_t layer_idx, const formats::LayerConfig& layer,
                      const AttentionWeights& weights, Matrix q,
                      const std::optional<IndexerQueries>& queries) {
  const auto& config = step.config;
  const Matrix out = new_matrix(step, step.rows, q.columns);
  ops::SparseAttentionParams p = core_params(step, layer, weights);
  p.q = q.data;
  p.out = out.data;
  autograd::sparse_attention(step.context(), p);
  if (queries && step.terms != nullptr && step.terms->indexer_loss != 0)
    indexer_loss(step, layer_idx, layer, *queries, p);
  if (needs_results_alone(step)) return out;
  show(step, "attention", out, step.rows);
  step.recompute(Recomputed::queries, q.data);
  rotate(step, out, step.rows, config.num_attention_heads, config.head_dim, row_rope(step, layer),
         true);
  show(step, "attention.rope", out, step.rows);
  return out;
}

// The products of groups of heads.
std::span<const ops::MatmulParams> wo_a_products(Step& step, const AttentionWeights& weights,
                                                 Matrix out, Matrix low) {
  const auto& config = step.config;
  const int64_t groups = config.o_groups;
  auto* products = step.array<ops::MatmulParams>(groups);
  for (int64_t g = 0; g < groups; ++g) {
    ops::MatmulParams& p = products[g];
    p.x = out.data + g * (out.columns / groups);
    p.m = step.rows;
    p.x_stride = out.stride;
    p.w = &weights.wo_a[g];
    p.y = low.data + g * config.o_lora_rank;
    p.y_stride = low.stride;
    p.math = matmul_math(step, weights.wo_a[g]);
    p.round_y = step.precision.bf16;
    p.laid = step.laid.find(weights.wo_a[g]);
  }
  return {products, static_cast<size_t>(groups)};
}

// Source: reference/forward 3.8.
Matrix output_projection(Step& step, const AttentionWeights& weights, Matrix out) {
  const auto& config = step.config;
  const Matrix low = new_matrix(step, step.rows, config.o_groups * config.o_lora_rank);
  const std::span<const ops::MatmulParams> products = wo_a_products(step, weights, out, low);
  autograd::matmul(step.context(), products, unquantised_gradient_format(step, weights.wo_a[0]));
  show(step, "wo_a", low, step.rows);
  const Matrix y =
      linear(step, quantised_input(step, low, step.rows, weights.wo_b), step.rows, weights.wo_b);
  show(step, "wo_b", y, step.rows);
  return y;
}

// The same of an out in bf16. So is what lies between, and the result, where the products take it.
Output output_projection(Step& step, const AttentionWeights& weights, const uint16_t* out,
                         bool to_boundary) {
  const int64_t columns = step.config.o_groups * step.config.o_lora_rank;
  const ops::MatmulParams wo_b = rounded_product(step, {}, weights.wo_b, {});
  std::span<const ops::MatmulParams> wo_a = wo_a_products(step, weights, {}, {});
  if (takes_input_as_it_is(step, weights.wo_b) &&
      ops::products_take_bf16(step.exec, wo_a, true, true) &&
      ops::products_take_bf16(step.exec, {&wo_b, 1}, true, to_boundary)) {
    auto* low = step.exec.arena->allocate<uint16_t>(step.rows * columns);
    ops::grouped_matmul_bf16(step.exec, wo_a, {out, low});
    if (to_boundary) {
      auto* y = step.exec.arena->allocate<uint16_t>(step.rows * weights.wo_b.rows());
      ops::grouped_matmul_bf16(step.exec, {&wo_b, 1}, {low, y});
      return {.bf16 = y};
    }
    const Matrix y = new_matrix(step, step.rows, weights.wo_b.rows());
    const ops::MatmulParams to_floats = rounded_product(step, {}, weights.wo_b, y);
    ops::grouped_matmul_bf16(step.exec, {&to_floats, 1}, {low, nullptr});
    return {y};
  }
  const Matrix low = new_matrix(step, step.rows, columns);
  wo_a = wo_a_products(step, weights, {}, low);
  ops::grouped_matmul_bf16(step.exec, wo_a, {out, nullptr});
  return {
      linear(step, quantised_input(step, low, step.rows, weights.wo_b), step.rows, weights.wo_b)};
}

}  // namespace

tensor::RowLayout kv_layout(const Step& step) {
  return tensor::kv_row_layout(step.precision.kv, step.config.head_dim,
                               step.config.qk_rope_head_dim);
}

ops::StoreRecentParams window_rows(const Step& step, int64_t layer_idx) {
  return {step.batch.sequences, step.batch.layer_rows[layer_idx], tensor::Recent::window,
          step.kv_rows[layer_idx]};
}

namespace {

// What the core reads but rows of caches.
struct Inputs {
  Matrix qn;
  Matrix q;
  std::optional<IndexerQueries> queries;
  const uint16_t* q_bf16 = nullptr;  // q in bf16 instead
  ops::RawQueries raw = {};          // what the core does to it first
};

bool needs_indexer_queries(const Step& step, const AttentionWeights& weights) {
  const bool has_loss = step.terms != nullptr && step.terms->indexer_loss != 0;
  return weights.indexer && (!is_dense(step) || has_loss);
}

Inputs inputs_one_by_one(Step& step, int64_t layer_idx, const formats::LayerConfig& layer,
                         const AttentionWeights& weights, Matrix x, InputProducts& products) {
  const auto& config = step.config;
  const Matrix low = products.low();
  show(step, "q_a", low, step.rows);
  const Matrix qn =
      rms_norm(step, low, step.rows, weights.q_norm, static_cast<float>(config.rms_norm_eps));
  show(step, "q_a.norm", qn, step.rows);
  const QueryProducts over_qn = query_products(step, weights, qn);
  const Matrix q = queries(step, layer, over_qn.q);

  if (weights.wkv) {
    const Matrix kv = key_values(step, layer, weights, products.kv());
    if (layer.attention == AttentionKind::full) {
      if (!step.batch.has_entries) encode_kv_entries(step, layer_idx, 1, kv);
    } else {
      autograd::encode_kv_rows(
          step.context(), {kv.data, step.rows, config.head_dim, kv.stride, config.qk_rope_head_dim},
          step.precision.kv, step.kv_rows[layer_idx]);
    }
    step.recompute(Recomputed::norms, kv.data);
  }
  compress_rows(step, layer_idx, layer, weights, x, products);
  Inputs inputs{qn, q, {}};
  if (needs_indexer_queries(step, weights)) {
    // The indexer learns from its own loss alone (reference/training 6.3): nothing goes back to the
    // backbone.
    inputs.queries = indexer_queries(step, layer, *weights.indexer, detached(step, qn, step.rows),
                                     detached(step, x, step.rows), over_qn.index_q, products);
  }
  return inputs;
}

// Whether q and the core's results are kept in bf16 between the ops, which halves their bytes.
bool runs_in_bf16(Step& step, const formats::LayerConfig& layer, const AttentionWeights& weights,
                  const ops::HeadRowsParams& q) {
  return ops::head_rows_takes_bf16(step.exec, q) &&
         ops::sparse_attention_takes_bf16(step.exec, core_params(step, layer, weights)) &&
         ops::products_take_bf16(step.exec, wo_a_products(step, weights, {}, {}), true, false);
}

// q = qn wq_b^T, raw, to where its heads are kept in bf16; false: it cannot be done.
bool makes_bf16_queries(Step& step, const AttentionWeights& weights, Matrix qn,
                        const ops::HeadRowsParams& q) {
  if (q.to_bf16 == nullptr || !takes_input_as_it_is(step, weights.wq_b)) return false;
  const ops::MatmulParams product = rounded_product(step, qn, weights.wq_b, {});
  if (!ops::products_take_bf16(step.exec, {&product, 1}, false, true)) return false;
  ops::grouped_matmul_bf16(step.exec, {&product, 1}, {nullptr, q.to_bf16});
  return true;
}

// Rows before it take all entries that they see (ops/indexer/index_select.h): nobody needs their
// queries. Of a long step, whose rows often begin a text; a sequence's rows are read by fours.
int64_t first_scored_row(const Step& step, const formats::LayerConfig& layer) {
  constexpr int64_t kWorthIt = 256;
  if (step.terms != nullptr) return 0;
  const tensor::Sequences& all = step.batch.sequences;
  int64_t first = step.rows;
  for (int64_t s = 0; s < all.count; ++s) {
    const int64_t unscored = layer.ratio * (step.config.index_topk + 1) - 1 - all.first_position[s];
    if (unscored >= all.num_rows(s)) continue;
    first = all.first_row[s] + std::max<int64_t>(unscored, 0) / 4 * 4;
    break;
  }
  return first < kWorthIt ? 0 : first;
}

// index_q = qn wq_b^T of the indexer, to where its heads, p, are kept in bf16; null: it cannot be
// done. p: from first_scored_row on.
const uint16_t* make_bf16_index_queries(Step& step, const ops::PackedWeight& wq_b, Matrix qn,
                                        const ops::IndexSelectParams& select,
                                        ops::HeadRowsParams& p) {
  const int64_t first = step.rows - p.rows;
  ops::MatmulParams product = rounded_product(step, rows_from(qn, first), wq_b, {});
  product.m = p.rows;
  constexpr int64_t kManyRows = 256;  // fewer run beside what follows
  if (p.rows < kManyRows || !takes_input_as_it_is(step, wq_b) || p.snap != ops::HeadSnap::fp4 ||
      !ops::head_rows_takes_bf16(step.exec, p) ||
      !ops::index_select_takes_bf16(step.exec, select) ||
      !ops::products_take_bf16(step.exec, {&product, 1}, false, true))
    return nullptr;
  auto* const all = step.exec.arena->allocate<uint16_t>(step.rows * wq_b.rows());
  p.to_bf16 = all + first * wq_b.rows();
  p.from_bf16 = p.to_bf16;
  ops::grouped_matmul_bf16(step.exec, {&product, 1}, {nullptr, p.to_bf16});
  return all;
}

// The same where nothing but the results is asked for: what follows the products over x together,
// beside those over the low-rank query, and then what follows these.
Inputs inputs_together(Step& step, int64_t layer_idx, const formats::LayerConfig& layer,
                       const AttentionWeights& weights, Matrix x, InputProducts& products) {
  const auto& config = step.config;
  const bool has_queries = needs_indexer_queries(step, weights);
  const ops::RopeTable rope = row_rope(step, layer);
  std::optional<ops::EntryRowsParams> entries, index_entries;
  if (weights.compressor) {
    entries = compressor_rows(step, layer_idx, layer, *weights.compressor, main_rows(step),
                              products.ks());
  }
  if (weights.indexer) {
    index_entries = compressor_rows(step, layer_idx, layer, weights.indexer->compressor,
                                    index_rows(step), products.index_ks(x));
  }
  const Matrix low = products.low();
  const Matrix qn = new_matrix(step, step.rows, low.columns);
  const ops::RmsNormParams norm{low.data,
                                low.stride,
                                weights.q_norm.data(),
                                qn.data,
                                qn.stride,
                                step.rows,
                                low.columns,
                                static_cast<float>(config.rms_norm_eps),
                                step.precision.bf16};
  ops::HeadRowsParams q_rows =
      head_rows_of(step, {}, config.num_attention_heads, config.head_dim, rope);
  q_rows.norm = step.precision.bf16 ? ops::HeadNorm::bf16_steps : ops::HeadNorm::weighted;
  if (runs_in_bf16(step, layer, weights, q_rows)) {
    q_rows.to_bf16 =
        step.exec.arena->allocate<uint16_t>(q_rows.rows * q_rows.heads * q_rows.head_dim);
  }
  LinearParts query_parts;
  bool beside = false;
  query_parts.lets_next_in = &beside;
  if (q_rows.to_bf16 == nullptr && takes_input_as_it_is(step, weights.wq_b) &&
      (!weights.indexer || takes_input_as_it_is(step, weights.indexer->wq_b))) {
    query_parts.norm = &norm;
  } else {
    ops::rms_norm(step.exec, norm);
  }
  const bool has_q = makes_bf16_queries(step, weights, qn, q_rows);
  const int64_t first_scored = has_q && has_queries ? first_scored_row(step, layer) : 0;
  ops::HeadRowsParams index_heads =
      head_rows_of(step, {}, config.index_n_heads, config.index_head_dim, rope);
  const uint16_t* index_q = nullptr;
  if (has_queries) {
    index_heads.rows -= first_scored;
    index_heads.table.cos += first_scored * (index_heads.rope_dim / 2);
    index_heads.table.sin += first_scored * (index_heads.rope_dim / 2);
    index_heads.hadamard = step.precision.rotate_index;
    if (step.precision.index_fp4) index_heads.snap = ops::HeadSnap::fp4;
    if (has_q) {
      index_q = make_bf16_index_queries(step, weights.indexer->wq_b, qn,
                                        select_params(step, layer_idx, layer), index_heads);
    }
  }
  const QueryProducts over_qn =
      query_products(step, weights, qn, query_parts, has_q, first_scored, index_q != nullptr);
  if (!has_q) {
    q_rows.x = over_qn.q.data;
    q_rows.row_stride = over_qn.q.stride;
  }
  // An entry's rows and code are read from memory, in turn: slow while the products read theirs.
  const bool completes_entry = weights.compressor && !step.batch.has_entries &&
                               step.batch.sequences.num_entries(layer.ratio) > 0;
  ops::Together together(step.exec, beside && !completes_entry && !has_q);
  step.run_waiting_with(together);
  if (weights.wkv) {
    const Matrix kv = products.kv();
    ops::HeadRowsParams p = head_rows_of(step, kv, 1, config.head_dim, rope);
    p.norm = ops::HeadNorm::weighted;
    p.g = weights.kv_norm.data();
    if (step.precision.kv == tensor::KvFormat::fp8) p.snap = ops::HeadSnap::fp8;
    if (layer.attention != AttentionKind::full) {
      together.add(ops::KvRowsParams{p, step.precision.kv, step.kv_rows[layer_idx]});
    } else {
      ops::head_rows(step.exec, p);
      if (!step.batch.has_entries) encode_kv_entries(step, layer_idx, 1, kv);
    }
  }
  if (entries) together.add(ops::CompleteEntries{*entries});
  if (index_entries) together.add(ops::CompleteEntries{*index_entries});
  Matrix weight{};
  if (has_queries) {
    weight = products.index_weight(x);
    together.add(ops::ScaleParams{weight.data, step.rows * weight.columns,
                                  index_weight_factor(step), step.precision.bf16});
  }
  if (has_queries && index_q == nullptr) {
    index_heads.x = rows_from(*over_qn.index_q, first_scored).data;
    index_heads.row_stride = over_qn.index_q->stride;
  }
  const bool has_index_heads = has_queries && index_heads.rows > 0;
  // Of many rows they take memory's whole rate, which entries, few and long, leave: beside them.
  if (has_q && has_index_heads) together.add(index_heads);
  together.run();

  Inputs inputs{qn, over_qn.q, {}, q_rows.to_bf16};
  if (has_q) {
    inputs.raw = {q_rows.table, q_rows.eps};
  } else {
    together.add(q_rows);
    if (has_index_heads) together.add(index_heads);
  }
  if (has_queries) {
    inputs.queries = IndexerQueries{{}, weight, index_q};
    if (index_q == nullptr) inputs.queries->q = *over_qn.index_q;
  }
  if (entries) together.add(ops::StoreCompressorRows{*entries});
  if (index_entries) together.add(ops::StoreCompressorRows{*index_entries});
  return inputs;
}

}  // namespace

bool attention_takes_bf16(const Step& step, const AttentionWeights& weights) {
  LinearParts parts;  // those of InputProducts
  const auto add = [&](const ops::PackedWeight& weight, bool f32) {
    parts.add({{nullptr, weight.columns(), weight.columns()}, &weight, {}, f32});
  };
  const auto add_compressor = [&](const CompressorWeights& compressor) {
    add(compressor.wkv, true);
    add(compressor.wgate, true);
  };
  add(weights.wq_a, false);
  if (weights.wkv) add(*weights.wkv, false);
  if (weights.compressor) add_compressor(*weights.compressor);
  if (weights.indexer) {
    add_compressor(weights.indexer->compressor);
    add(weights.indexer->weights_proj, false);
  }
  return needs_results_alone(step) && linears_take_bf16(step, step.rows, parts);
}

ops::WeightsToLay attention_weights_to_lay(Step& step, const formats::LayerConfig& layer,
                                           const AttentionWeights& weights) {
  ops::WeightsToLay to_lay;
  const auto add = [&](const ops::PackedWeight& weight, int64_t rows) {
    ops::MatmulParams p = rounded_product(step, {}, weight, {});
    p.m = rows;
    if (ops::products_lay_weights(step.exec, {&p, 1})) to_lay.add(weight);
  };
  if (weights.wkv) {
    const ops::MatmulParams low[] = {rounded_product(step, {}, weights.wq_a, {}),
                                     rounded_product(step, {}, *weights.wkv, {})};
    if (ops::products_lay_weights(step.exec, low, true)) {
      to_lay.add(weights.wq_a);
      to_lay.add(*weights.wkv);
    }
  } else {
    add(weights.wq_a, step.rows);
  }
  add(weights.wq_b, step.rows);
  if (needs_indexer_queries(step, weights))
    add(weights.indexer->wq_b, step.rows - first_scored_row(step, layer));
  if (ops::products_lay_weights(step.exec, wo_a_products(step, weights, {}, {}))) {
    for (const ops::PackedWeight& weight : weights.wo_a) to_lay.add(weight);
  }
  add(weights.wo_b, step.rows);
  return to_lay;
}

Output attention(Step& step, int64_t layer_idx, const formats::LayerConfig& layer,
                 const AttentionWeights& weights, Input input, bool to_boundary) {
  const Matrix x = input.x;
  InputProducts products(step, weights, x, quantised_input(step, x, step.rows, weights.wq_a),
                         input.bf16);
  const auto [qn, q, queries, q_bf16, raw] =
      needs_results_alone(step) ? inputs_together(step, layer_idx, layer, weights, x, products)
                                : inputs_one_by_one(step, layer_idx, layer, weights, x, products);
  if (queries && !is_dense(step)) select_entries(step, layer_idx, layer, *queries);
  step.recompute(Recomputed::norms, qn.data);
  if (q_bf16 != nullptr) {
    ops::SparseAttentionParams p = core_params(step, layer, weights);
    p.q_bf16 = q_bf16;
    p.raw = raw;
    p.out_bf16 = step.exec.arena->allocate<uint16_t>(step.rows * step.config.num_attention_heads *
                                                     step.config.head_dim);
    ops::sparse_attention(step.exec, p);
    return output_projection(step, weights, p.out_bf16, to_boundary);
  }
  return {output_projection(step, weights,
                            core_attention(step, layer_idx, layer, weights, q, queries))};
}

}  // namespace cachalot::model
