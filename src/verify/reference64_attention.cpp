#include "verify/reference64_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace cachalot::verify {
namespace {

using formats::AttentionKind;
using formats::LayerConfig;

// slots: (score, value).
double pool(const std::vector<std::pair<double, double>>& slots, double* bound) {
  double top = -std::numeric_limits<double>::infinity(), sum = 0.0, value = 0.0;
  for (const auto& slot : slots) top = std::max(top, slot.first);
  double size = 0.0, error = 0.0, sum_error = 0.0;
  for (const auto& slot : slots) {
    const double p = std::exp(slot.first - top), e = kUnit * (top - slot.first) + kFunction;
    sum += p;
    value += p * slot.second;
    size += p * std::fabs(slot.second);
    error += p * std::fabs(slot.second) * e;
    sum_error += p * e;
  }
  const double additions = (static_cast<double>(slots.size()) + 1) * kUnit;
  if (bound != nullptr) {
    *bound = (error + additions * size +
              std::fabs(value) / sum * (sum_error + (additions + kUnit) * sum)) /
             sum;
  }
  return value / sum;
}

}  // namespace

Mat Attention64::compressed(const std::string& prefix, const Mat& x, int64_t ratio, int64_t width,
                            bool index) {
  const bool overlap = ratio == 4;
  const Mat ks = keys_and_scores(prefix, x, ratio);
  const int64_t columns = ks.columns / 2;
  Bounded pooled = ops_.bounded(x.rows / ratio, width);
  std::vector<int64_t> tokens;  // the last of every entry
  for (int64_t e = 0; e < pooled.value.rows; ++e) {
    tokens.push_back((e + 1) * ratio - 1);
    for (int64_t i = 0; i < width && ops_.status().ok(); ++i) {
      std::vector<std::pair<double, double>> slots;  // (score, value)
      auto add = [&](int64_t window, int64_t channel) {
        for (int64_t t = window * ratio; t < (window + 1) * ratio; ++t)
          slots.emplace_back(ks.row(t)[columns + channel], ks.row(t)[channel]);
      };
      if (overlap && e > 0) add(e - 1, i);
      add(e, overlap ? width + i : i);
      pooled.value.row(e)[i] = pool(slots, ops_.is_observed() ? &pooled.bound.row(e)[i] : nullptr);
    }
  }
  Mat out = ops_.settle("compress.pooled", std::move(pooled), true, tokens);
  out = ops_.rms_norm("compress.norm", out, prefix + "norm.weight", tokens);
  const std::vector<int64_t> first = positions(out.rows, ratio);
  out = ops_.rotate("compress.rope", std::move(out), 1, first, true, false, tokens);
  if (!ops_.official()) return out;
  if (index) return snap_index("compress", std::move(out), width, tokens);
  for (int64_t e = 0; e < out.rows; ++e) snap_fp8(out.row(e), width - c_.qk_rope_head_dim, 64);
  return ops_.settle("compress.row", Bounded(std::move(out)), true, tokens);
}

Mat Attention64::keys_and_scores(const std::string& prefix, const Mat& x, int64_t ratio) {
  const double* ape = ops_.vector(prefix + "ape");
  const int64_t columns = ops_.weight(prefix + "wkv.weight").rows;
  Bounded k = ops_.bounded(x.rows, columns), s = ops_.bounded(x.rows, columns),
          ks = ops_.bounded(x.rows, 2 * columns);
  ops_.multiply_rows(x, 0, x.rows, prefix + "wkv.weight", k);
  ops_.multiply_rows(x, 0, x.rows, prefix + "wgate.weight", s);
  for (int64_t t = 0; t < x.rows && ops_.status().ok(); ++t) {
    for (int64_t i = 0; i < columns; ++i) {
      const double score = s.value.row(t)[i] + ape[t % ratio * columns + i];
      ks.value.row(t)[i] = k.value.row(t)[i];
      ks.value.row(t)[columns + i] = score;
      if (!ops_.is_observed()) continue;
      ks.bound.row(t)[i] = k.bound.row(t)[i];
      ks.bound.row(t)[columns + i] = s.bound.row(t)[i] + kUnit * std::fabs(score);
    }
  }
  return ops_.settle("compress.kv", std::move(ks), false);
}

Mat Attention64::snap_index(const std::string& op, Mat x, int64_t dim,
                            std::span<const int64_t> tokens) {
  Bounded y = ops_.bounded(x.rows, x.columns);
  y.value = std::move(x);
  const double stages = std::log2(static_cast<double>(dim)) + 1;
  for (int64_t t = 0; t < y.value.rows; ++t) {
    for (int64_t i = 0; i < y.value.columns; i += dim) {
      double* head = y.value.row(t) + i;
      double size = 0.0;
      for (int64_t j = 0; j < dim; ++j) size += std::fabs(head[j]);
      hadamard(head, dim);
      if (!ops_.is_observed()) continue;
      const double bound = stages * kUnit * size / std::sqrt(static_cast<double>(dim));
      std::fill_n(y.bound.row(t) + i, dim, bound);
    }
  }
  Mat out = ops_.settle(op + ".hadamard", std::move(y), true, tokens);
  for (int64_t t = 0; t < out.rows; ++t) {
    for (int64_t i = 0; i < out.columns; i += dim) snap_fp4(out.row(t) + i, dim);
  }
  return ops_.settle(op + ".row", Bounded(std::move(out)), true, tokens);
}

std::vector<std::vector<int64_t>> Attention64::select(const std::string& prefix, int64_t layer_idx,
                                                      const Mat& qn, const Mat& x, int64_t ratio) {
  const int64_t heads = c_.index_n_heads, dim = c_.index_head_dim;
  const Mat keys = compressed(prefix + "compressor.", x, ratio, dim, true);
  Mat q = ops_.linear("index.q", qn, prefix + "wq_b.weight");
  q = ops_.rotate("index.rope", std::move(q), heads, positions(x.rows), true, false);
  if (ops_.official()) q = snap_index("index", std::move(q), dim);
  Bounded scaled(ops_.linear("index.weight", x, prefix + "weights_proj.weight"));
  const double factor = 1.0 / std::sqrt(static_cast<double>(dim * heads));
  for (size_t i = 0; i < scaled.value.values.size(); ++i) {
    scaled.value.values[i] *= factor;
    scaled.bound.values[i] = 2 * kUnit * std::fabs(scaled.value.values[i]);
  }
  const Mat w = ops_.settle("index.scaled_weight", std::move(scaled), true);
  std::vector<std::vector<int64_t>> picks;
  for (int64_t t = 0; t < x.rows; ++t) {
    const int64_t visible = std::min((t + 1) / ratio, keys.rows);
    const auto count = static_cast<size_t>(visible);
    std::vector<double> scores(count), lo(count), hi(count), dots(count * heads),
        bounds(dots.size());
    for (int64_t h = 0; h < heads; ++h) {
      multiply(q.row(t) + h * dim, keys, 0, visible, dots.data() + h * visible,
               bounds.data() + h * visible);
    }
    for (int64_t e = 0; e < visible; ++e) {
      const auto score = [&](double side) {
        double sum = 0.0, size = 0.0;
        for (int64_t h = 0; h < heads; ++h) {
          const double weight = w.row(t)[h], move = std::copysign(side, weight * side);
          const double dot =
              dots[h * visible + e] + (side == 0.0 ? 0.0 : move * bounds[h * visible + e]);
          const double term = ops_.round(std::max(ops_.round(dot), 0.0) * weight);
          sum += term;
          size += std::fabs(term);
        }
        return ops_.round(sum + side * static_cast<double>(heads) * kUnit * size);
      };
      scores[e] = score(0.0);
      lo[e] = ops_.is_observed() ? score(-1.0) : scores[e];
      hi[e] = ops_.is_observed() ? score(1.0) : scores[e];
    }
    std::vector<int64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
    const int64_t kept = std::min(visible, c_.index_topk);
    result_.selection[layer_idx].push_back(choice_of(scores, order, kept));
    result_.index_scores[layer_idx].push_back(scores);
    order.resize(static_cast<size_t>(kept));
    std::sort(order.begin(), order.end());
    if (ops_.is_observed()) ops_.observer()->on_choice("selection", t, lo, hi, order);
    picks.push_back(std::move(order));
  }
  return picks;
}

Mat Attention64::norm_queries(const Mat& q) {
  const int64_t dim = c_.head_dim;
  Mat lo = q, hi = q, value = q;
  for (int64_t t = 0; t < q.rows; ++t) {
    for (int64_t h = 0; h < c_.num_attention_heads; ++h) {
      const double* x = q.row(t) + h * dim;
      double sum = 0.0;
      for (int64_t i = 0; i < dim; ++i) sum += ops_.round(x[i] * x[i]);
      const auto factor = [&](double error) {
        const double mean = ops_.round(sum * (1.0 + error) / static_cast<double>(dim));
        return ops_.round(1.0 / std::sqrt(ops_.round(mean + c_.rms_norm_eps)));
      };
      const double error = square_sum_error(dim);
      const double g = factor(0.0), least = factor(error), most = factor(-error);
      for (int64_t i = 0; i < dim; ++i) {
        const int64_t at = h * dim + i;
        value.row(t)[at] = ops_.round(x[i] * g);
        const double a = ops_.round(x[i] * least), b = ops_.round(x[i] * most);
        lo.row(t)[at] = std::min(a, b);
        hi.row(t)[at] = std::max(a, b);
      }
    }
  }
  if (ops_.is_observed()) ops_.observer()->on_op({"q.head_norm", true, {}, lo, hi}, value);
  return value;
}

Mat Attention64::attention(const std::string& prefix, int64_t layer_idx, const Mat& x) {
  const LayerConfig& layer = layers_[layer_idx];
  const int64_t heads = c_.num_attention_heads, dim = c_.head_dim;
  const bool compressed_rope = layer.ratio > 1;
  const std::vector<int64_t> rows = positions(x.rows);
  const Mat qn = ops_.rms_norm("q_a.norm", ops_.linear("q_a", x, prefix + "wq_a.weight"),
                               prefix + "q_norm.weight");
  Mat q = ops_.linear("q", qn, prefix + "wq_b.weight");
  if (normed_queries_) q = norm_queries(q);
  q = ops_.rotate("q.rope", std::move(q), heads, rows, compressed_rope, false);
  if (layer.kv_source == layer_idx) {
    Mat kv = ops_.rms_norm("kv.norm", ops_.linear("kv", x, prefix + "wkv.weight"),
                           prefix + "kv_norm.weight");
    kv = ops_.rotate("kv.rope", std::move(kv), 1, rows, compressed_rope, false);
    if (ops_.official()) {
      for (int64_t t = 0; t < kv.rows; ++t) snap_fp8(kv.row(t), dim - c_.qk_rope_head_dim, 64);
      kv = ops_.settle("kv.row", Bounded(std::move(kv)), true);
    }
    kv_[layer_idx] = std::move(kv);
    if (layer.ratio > 1)
      entries_[layer_idx] = compressed(prefix + "compressor.", x, layer.ratio, dim, false);
  }
  if (layer.attention == AttentionKind::csa && layer.index_source == layer_idx) {
    picks_[layer_idx] = select(prefix + "indexer.", layer_idx, qn, x, layer.ratio);
    result_.picks[layer_idx] = picks_[layer_idx];
  }
  Bounded out = ops_.bounded(x.rows, heads * dim);
  const double* sink = ops_.vector(prefix + "attn_sink");
  if (!ops_.status().ok()) return Mat(x.rows, c_.hidden_size);
  const bool csa = layer.attention == AttentionKind::csa;
  for (int64_t t = 0; t < x.rows; ++t) {
    std::vector<double>* received = nullptr;
    if (csa) {
      const size_t num_picks = picks_.at(layer.index_source)[t].size();
      received = &result_.received[layer_idx].emplace_back(num_picks);
    }
    attend(layer, t, q.row(t), sink, out, received);
  }
  Mat o = ops_.settle("attention", std::move(out), true);
  o = ops_.rotate("attention.rope", std::move(o), heads, rows, compressed_rope, true);
  return output(prefix, o);
}

Mat Attention64::keys_of(const LayerConfig& layer, int64_t t, int64_t& num_window) {
  std::vector<const double*> keys;
  const Mat& kv = kv_.at(layer.kv_source);
  const int64_t first =
      layer.attention == AttentionKind::full ? 0 : std::max<int64_t>(0, t - c_.sliding_window + 1);
  for (int64_t p = first; p <= t; ++p) keys.push_back(kv.row(p));
  num_window = static_cast<int64_t>(keys.size());
  if (layer.attention == AttentionKind::csa) {
    for (const int64_t e : picks_.at(layer.index_source)[t])
      keys.push_back(entries_.at(layer.kv_source).row(e));
  } else if (layer.attention == AttentionKind::hca) {
    for (int64_t e = 0; e < (t + 1) / layer.ratio; ++e)
      keys.push_back(entries_.at(layer.kv_source).row(e));
  }
  Mat out(static_cast<int64_t>(keys.size()), c_.head_dim);
  for (int64_t i = 0; i < out.rows; ++i) std::copy_n(keys[i], out.columns, out.row(i));
  return out;
}

void Attention64::attend(const LayerConfig& layer, int64_t t, const double* q, const double* sink,
                         Bounded& out, std::vector<double>* received) {
  const int64_t dim = c_.head_dim;
  const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
  int64_t num_window = 0;
  const Mat keys = keys_of(layer, t, num_window);
  const auto count = static_cast<size_t>(keys.rows);
  std::vector<double> s(count), error(count);
  for (int64_t h = 0; h < c_.num_attention_heads; ++h) {
    multiply(q + h * dim, keys, 0, keys.rows, s.data(), error.data());
    double top = -std::numeric_limits<double>::infinity(), top_error = 0.0;
    for (size_t i = 0; i < count; ++i) {
      s[i] *= scale;
      error[i] = error[i] * scale + 2 * kUnit * std::fabs(s[i]);
      if (s[i] > top) top_error = error[i];
      top = std::max(top, s[i]);
      result_.max_attention_logit = std::max(result_.max_attention_logit, std::fabs(s[i]));
    }
    double z = std::exp(sink[h] - top), z_error = 0.0;
    for (size_t i = 0; i < count; ++i) {
      error[i] += top_error + kUnit * (top - s[i]) + kFunction;
      s[i] = std::exp(s[i] - top);
      z += s[i];
      z_error += s[i] * error[i];
    }
    z_error = z_error / z + (static_cast<double>(count) + 2) * kUnit + top_error;
    for (size_t i = num_window; received != nullptr && i < count; ++i)
      (*received)[i - num_window] += s[i] / z;
    std::vector<double> sum(static_cast<size_t>(dim)), partial(sum.size()), turned(sum.size());
    for (size_t i = 0; i < count; ++i) {
      const double p = ops_.round(s[i]);
      const double* key = keys.row(static_cast<int64_t>(i));
      for (int64_t j = 0; j < dim; ++j) sum[j] += p * key[j];
      if (!ops_.is_observed()) continue;
      const double step = ops_.round(s[i] * (1 + error[i])) - ops_.round(s[i] * (1 - error[i]));
      for (int64_t j = 0; j < dim; ++j) {
        partial[j] += std::fabs(sum[j]);
        turned[j] += step * std::fabs(key[j]);
      }
    }
    for (int64_t j = 0; j < dim; ++j) {
      const double value = sum[j] / z;
      out.value.row(t)[h * dim + j] = value;
      if (!ops_.is_observed()) continue;
      out.bound.row(t)[h * dim + j] =
          (turned[j] + kChain * partial[j]) / z + std::fabs(value) * (z_error + 2 * kUnit);
    }
  }
}

Mat Attention64::output(const std::string& prefix, const Mat& out) {
  const Mat& wo_a = ops_.weight(prefix + "wo_a.weight");
  Bounded low = ops_.bounded(out.rows, c_.o_groups * c_.o_lora_rank);
  for (int64_t t = 0; t < out.rows && ops_.status().ok(); ++t) {
    for (int64_t g = 0; g < c_.o_groups; ++g) {
      const int64_t first = g * c_.o_lora_rank;
      multiply(out.row(t) + g * wo_a.columns, wo_a, first, c_.o_lora_rank, low.value.row(t) + first,
               ops_.is_observed() ? low.bound.row(t) + first : nullptr);
    }
  }
  return ops_.linear("wo_b", ops_.settle("wo_a", std::move(low), true), prefix + "wo_b.weight");
}

}  // namespace cachalot::verify
