#include "verify/reference64.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "numeric/formats.h"

namespace cachalot::verify {
namespace {

using formats::AttentionKind;
using formats::LayerConfig;
using formats::ModelConfig;

struct Mat {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<double> values;
  Mat() = default;
  Mat(int64_t r, int64_t c) : rows(r), columns(c), values(static_cast<size_t>(r * c)) {}
  double* row(int64_t i) { return values.data() + i * columns; }
  const double* row(int64_t i) const { return values.data() + i * columns; }
};

double bf16(double x) { return numeric::round_to_bf16(static_cast<float>(x)); }

// reference/forward 0.4: one power-of-two scale per block.
template <typename RoundCode>
void snap_block(double* x, int64_t n, double floor_max, double code_max, RoundCode round_code) {
  double a = floor_max;
  for (int64_t i = 0; i < n; ++i) a = std::max(a, std::fabs(x[i]));
  const double s = std::exp2(
      numeric::pow2_ceil_exponent(static_cast<float>(a) * static_cast<float>(1.0 / code_max)));
  for (int64_t i = 0; i < n; ++i)
    x[i] = bf16(round_code(static_cast<float>(std::clamp(x[i] / s, -code_max, code_max))) * s);
}
void snap_fp8(double* x, int64_t n, int64_t block) {
  for (int64_t i = 0; i < n; i += block) {
    snap_block(x + i, std::min(block, n - i), static_cast<double>(1e-4f), 448.0,
               [](float v) { return numeric::float_from_e4m3(numeric::e4m3_from_float(v)); });
  }
}
void snap_fp4(double* x, int64_t n) {
  for (int64_t i = 0; i < n; i += 32) {
    snap_block(x + i, 32, 6.0 * 0x1p-126, 6.0,
               [](float v) { return numeric::float_from_e2m1(numeric::e2m1_from_float(v)); });
  }
}

void hadamard(double* x, int64_t n) {
  for (int64_t stride = 1; stride < n; stride *= 2) {
    for (int64_t i = 0; i < n; ++i) {
      if ((i & stride) != 0) continue;
      const double u = x[i], v = x[i + stride];
      x[i] = u + v;
      x[i + stride] = u - v;
    }
  }
  for (int64_t i = 0; i < n; ++i) x[i] = bf16(x[i] / std::sqrt(static_cast<double>(n)));
}

// order: candidates, best first, of which `kept` are taken.
Choice choice(const std::vector<double>& scores, const std::vector<int64_t>& order, int64_t kept) {
  const auto n = static_cast<int64_t>(scores.size());
  if (kept >= n)
    return {-std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity(), 0.0};
  double mean = 0.0, square = 0.0;
  for (const double score : scores) mean += score / static_cast<double>(n);
  for (const double score : scores)
    square += (score - mean) * (score - mean) / static_cast<double>(n);
  return {scores[order[kept - 1]], scores[order[kept - 1]] - scores[order[kept]],
          std::sqrt(square)};
}

class Reference {
 public:
  Reference(const ModelConfig& config, const model::WeightProvider& source, bool official,
            bool normed_queries)
      : c_(config),
        layers_(formats::layer_configs(config)),
        source_(source),
        official_(official),
        normed_queries_(normed_queries) {}

  Result<Reference64Result> run(std::span<const int32_t> tokens) {
    tokens_ = tokens;
    Reference64Result result;
    result_ = &result;
    Mat streams = embed_streams();
    for (int64_t layer = 0; layer < c_.num_hidden_layers; ++layer) {
      run_layer(fmt::format("layers.{}.", layer), layer, streams, tokens_);
      result.layer_streams.push_back(streams.values);
    }
    result.logits = head("hc_head", "norm.weight", streams).values;
    if (c_.num_nextn_predict_layers > 0) result.mtp_logits = mtp(streams);
    if (!status_.ok()) return status_;
    return result;
  }

 private:
  double round(double x) const { return official_ ? bf16(x) : x; }

  // A matrix, or a vector as one row. The first failure is kept and returned at the end.
  const Mat& weight(const std::string& name, bool vector = false) {
    auto [at, is_new] = weights_.try_emplace(name);
    if (!is_new) return at->second;
    Mat& out = at->second;
    std::vector<float> values;
    if (vector) {
      Result<tensor::TensorView> view = source_.tensor(name);
      if (!view) return fail(view.error(), out);
      values = tensor::to_floats(*view);
      out = Mat(1, static_cast<int64_t>(values.size()));
    } else {
      Result<tensor::QuantTensor> matrix = source_.matrix(name);
      if (!matrix) return fail(matrix.error(), out);
      values = tensor::dequantize(*matrix);
      out = Mat(matrix->rows, matrix->columns);
      if (matrix->has_scale()) quantised_.push_back(name);
    }
    std::copy(values.begin(), values.end(), out.values.begin());
    return out;
  }
  const Mat& fail(const Status& status, Mat& out) {
    if (status_.ok()) status_ = status;
    out = Mat(1, 1);
    return out;
  }
  const std::vector<int32_t>& expert_ids(const std::string& name) {
    auto [at, is_new] = tables_.try_emplace(name);
    if (!is_new) return at->second;
    Result<std::vector<int32_t>> ids = source_.expert_ids(name);
    if (ids) {
      at->second = *std::move(ids);
    } else if (status_.ok()) {
      status_ = ids.error();
    }
    return at->second;
  }
  const double* vector(const std::string& name) { return weight(name, true).row(0); }

  Mat product(const Mat& x, const Mat& w, int64_t first_row, int64_t num_rows, int64_t x_offset) {
    Mat y(x.rows, num_rows);
    if (!status_.ok()) return y;
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t o = 0; o < num_rows; ++o) {
        const double* a = x.row(t) + x_offset;
        const double* b = w.row(first_row + o);
        double sum = 0.0;
        for (int64_t i = 0; i < w.columns; ++i) sum += a[i] * b[i];
        y.row(t)[o] = sum;
      }
    }
    return y;
  }

  // LIN8, LIN4 or LINB by what the weight is; LINF where keep_f32.
  Mat linear(const Mat& x, const std::string& name, bool keep_f32 = false) {
    const Mat& w = weight(name);
    const bool quantised =
        std::find(quantised_.begin(), quantised_.end(), name) != quantised_.end();
    Mat input = x;
    if (official_ && quantised) {
      for (int64_t t = 0; t < input.rows; ++t) snap_fp8(input.row(t), input.columns, 128);
    }
    Mat y = product(input, w, 0, w.rows, 0);
    if (!keep_f32) {
      for (double& v : y.values) v = round(v);
    }
    return y;
  }

  Mat rms_norm(const Mat& x, const std::string& name) {
    const double* g = vector(name);
    Mat y(x.rows, x.columns);
    for (int64_t t = 0; t < x.rows; ++t) {
      double sum = 0.0;
      for (int64_t i = 0; i < x.columns; ++i) sum += x.row(t)[i] * x.row(t)[i];
      const double f = 1.0 / std::sqrt(sum / static_cast<double>(x.columns) + c_.rms_norm_eps);
      for (int64_t i = 0; i < x.columns; ++i) y.row(t)[i] = round(g[i] * (x.row(t)[i] * f));
    }
    return y;
  }

  // reference/forward 0.7, one head's last rope_dim values at a position.
  void rotate(double* head_end, int64_t position, bool compressed, bool inverse) {
    const int64_t dim = c_.qk_rope_head_dim;
    const double theta = compressed ? c_.compress_rope_theta : c_.rope_theta;
    const auto& yarn = c_.rope_scaling;
    auto corr = [&](double b) {
      return static_cast<double>(dim) *
             std::log(static_cast<double>(yarn.original_max_position_embeddings) /
                      (b * 2.0 * M_PI)) /
             (2.0 * std::log(theta));
    };
    const double low = std::max(std::floor(corr(yarn.beta_fast)), 0.0);
    double high = std::min(std::ceil(corr(yarn.beta_slow)), static_cast<double>(dim - 1));
    if (low == high) high += 0.001;
    for (int64_t i = 0; i < dim / 2; ++i) {
      double frequency =
          1.0 / std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(dim));
      if (compressed && yarn.factor != 1.0) {
        const double keep =
            1.0 - std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
        frequency = frequency / yarn.factor * (1.0 - keep) + frequency * keep;
      }
      const double angle =
          static_cast<float>(static_cast<float>(position) * static_cast<float>(frequency));
      const double cosine = std::cos(angle), sine = inverse ? -std::sin(angle) : std::sin(angle);
      double* pair = head_end - dim + 2 * i;
      const double a = pair[0], b = pair[1];
      pair[0] = round(a * cosine - b * sine);
      pair[1] = round(a * sine + b * cosine);
    }
  }

  Mat embed_streams() {
    const Mat& table = weight("embed.weight");
    Mat streams(static_cast<int64_t>(tokens_.size()), num_streams() * c_.hidden_size);
    for (int64_t t = 0; t < streams.rows; ++t) {
      for (int64_t j = 0; j < num_streams(); ++j) {
        std::copy_n(table.row(tokens_[t]), c_.hidden_size, streams.row(t) + j * c_.hidden_size);
      }
    }
    return streams;
  }
  int64_t num_streams() const {
    return layers_[0].residual == formats::ResidualKind::plain ? 1 : c_.hc_mult;
  }

  // reference/forward 2.3, 2.4. pre, post [n], comb [n][n] of one row.
  struct Mix {
    std::vector<double> pre, post, comb;
  };
  Mix hyper_mix(const double* x, const std::string& prefix, formats::ResidualKind kind,
                bool head_only) {
    const int64_t n = c_.hc_mult, width = n * c_.hidden_size;
    const Mat& fn = weight(prefix + "_fn");
    const double* base = vector(prefix + "_base");
    const double* scale = vector(prefix + "_scale");
    Mix mix{std::vector<double>(n), std::vector<double>(n), std::vector<double>(n * n)};
    if (!status_.ok()) return mix;
    double square = 0.0;
    for (int64_t i = 0; i < width; ++i) square += x[i] * x[i];
    const double f = 1.0 / std::sqrt(square / static_cast<double>(width) + c_.rms_norm_eps);
    std::vector<double> m(static_cast<size_t>(fn.rows));
    for (int64_t i = 0; i < fn.rows; ++i) {
      for (int64_t q = 0; q < width; ++q) m[i] += fn.row(i)[q] * x[q];
      m[i] *= f;
    }
    auto sigmoid = [](double v) { return 1.0 / (1.0 + std::exp(-v)); };
    for (int64_t j = 0; j < n; ++j) mix.pre[j] = sigmoid(m[j] * scale[0] + base[j]) + c_.hc_eps;
    if (head_only) return mix;
    for (int64_t k = 0; k < n; ++k) mix.post[k] = 2.0 * sigmoid(m[n + k] * scale[1] + base[n + k]);
    for (int64_t i = 0; i < n * n; ++i) mix.comb[i] = m[2 * n + i] * scale[2] + base[2 * n + i];
    if (kind == formats::ResidualKind::unconstrained) {
      for (int64_t j = 0; j < n; ++j) mix.comb[j * n + j] += 1.0;
    } else {
      sinkhorn(mix.comb, n);
    }
    return mix;
  }
  void sinkhorn(std::vector<double>& c, int64_t n) const {
    auto normalise = [&](int64_t line, int64_t step, int64_t stride, double in_sum) {
      double sum = in_sum;
      for (int64_t i = 0; i < n; ++i) sum += c[line * stride + i * step];
      for (int64_t i = 0; i < n; ++i) c[line * stride + i * step] /= sum;
    };
    for (int64_t j = 0; j < n; ++j) {
      double top = -std::numeric_limits<double>::infinity();
      for (int64_t k = 0; k < n; ++k) top = std::max(top, c[j * n + k]);
      for (int64_t k = 0; k < n; ++k) c[j * n + k] = std::exp(c[j * n + k] - top);
      normalise(j, 1, n, 0.0);
      for (int64_t k = 0; k < n; ++k) c[j * n + k] += c_.hc_eps;
    }
    for (int64_t k = 0; k < n; ++k) normalise(k, n, 1, c_.hc_eps);
    for (int64_t i = 1; i < c_.hc_sinkhorn_iters; ++i) {
      for (int64_t j = 0; j < n; ++j) normalise(j, 1, n, c_.hc_eps);
      for (int64_t k = 0; k < n; ++k) normalise(k, n, 1, c_.hc_eps);
    }
  }
  Mat mix_streams(const Mat& streams, const std::vector<Mix>& mixes) {
    Mat u(streams.rows, c_.hidden_size);
    for (int64_t t = 0; t < u.rows; ++t) {
      for (int64_t i = 0; i < u.columns; ++i) {
        double sum = 0.0;
        for (int64_t j = 0; j < c_.hc_mult; ++j)
          sum += mixes[t].pre[j] * streams.row(t)[j * u.columns + i];
        u.row(t)[i] = round(sum);
      }
    }
    return u;
  }

  template <typename Body>
  void sublayer(const std::string& hyper, const std::string& norm, formats::ResidualKind kind,
                Mat& streams, Body body) {
    const int64_t n = num_streams(), d = c_.hidden_size;
    if (kind == formats::ResidualKind::plain) {
      const Mat y = body(rms_norm(streams, norm));
      for (size_t i = 0; i < streams.values.size(); ++i)
        streams.values[i] = round(streams.values[i] + y.values[i]);
      return;
    }
    std::vector<Mix> mixes;
    for (int64_t t = 0; t < streams.rows; ++t)
      mixes.push_back(hyper_mix(streams.row(t), hyper, kind, false));
    const Mat y = body(rms_norm(mix_streams(streams, mixes), norm));
    const Mat old = streams;
    for (int64_t t = 0; t < streams.rows; ++t) {
      for (int64_t k = 0; k < n; ++k) {
        for (int64_t i = 0; i < d; ++i) {
          double sum = mixes[t].post[k] * y.row(t)[i];
          for (int64_t j = 0; j < n; ++j) sum += mixes[t].comb[j * n + k] * old.row(t)[j * d + i];
          streams.row(t)[k * d + i] = round(sum);
        }
      }
    }
  }

  void run_layer(const std::string& prefix, int64_t layer_idx, Mat& streams,
                 std::span<const int32_t> tokens) {
    const LayerConfig& layer = layers_[layer_idx];
    sublayer(prefix + "hc_attn", prefix + "attn_norm.weight", layer.residual, streams,
             [&](const Mat& x) { return attention(prefix + "attn.", layer_idx, x); });
    sublayer(prefix + "hc_ffn", prefix + "ffn_norm.weight", layer.residual, streams,
             [&](const Mat& x) { return ffn(prefix + "ffn.", layer_idx, x, tokens); });
  }

  // reference/forward 3.3: all entries of a sequence.
  Mat compressed(const std::string& prefix, const Mat& x, int64_t ratio, int64_t width,
                 bool index) {
    const bool overlap = ratio == 4;
    const Mat k = linear(x, prefix + "wkv.weight", true);
    Mat s = linear(x, prefix + "wgate.weight", true);
    const double* ape = vector(prefix + "ape");
    for (int64_t t = 0; t < s.rows; ++t) {
      for (int64_t i = 0; i < s.columns; ++i) s.row(t)[i] += ape[t % ratio * s.columns + i];
    }
    Mat out(x.rows / ratio, width);
    for (int64_t e = 0; e < out.rows; ++e) {
      for (int64_t i = 0; i < width; ++i) {
        std::vector<std::pair<double, double>> slots;  // (score, value)
        if (overlap && e > 0) {
          for (int64_t t = (e - 1) * ratio; t < e * ratio; ++t)
            slots.emplace_back(s.row(t)[i], k.row(t)[i]);
        }
        const int64_t own = overlap ? width + i : i;
        for (int64_t t = e * ratio; t < (e + 1) * ratio; ++t)
          slots.emplace_back(s.row(t)[own], k.row(t)[own]);
        double top = -std::numeric_limits<double>::infinity(), sum = 0.0, value = 0.0;
        for (const auto& slot : slots) top = std::max(top, slot.first);
        for (const auto& slot : slots) {
          sum += std::exp(slot.first - top);
          value += std::exp(slot.first - top) * slot.second;
        }
        out.row(e)[i] = round(value / sum);
      }
    }
    out = rms_norm(out, prefix + "norm.weight");
    for (int64_t e = 0; e < out.rows; ++e) {
      rotate(out.row(e) + width, e * ratio, true, false);
      if (!official_) continue;
      if (index) {
        hadamard(out.row(e), width);
        snap_fp4(out.row(e), width);
      } else {
        snap_fp8(out.row(e), width - c_.qk_rope_head_dim, 64);
      }
    }
    return out;
  }

  // reference/forward 3.6: the picks of every row, ascending.
  std::vector<std::vector<int64_t>> select(const std::string& prefix, int64_t layer_idx,
                                           const Mat& qn, const Mat& x, int64_t ratio) {
    Mat q = linear(qn, prefix + "wq_b.weight");
    Mat w = linear(x, prefix + "weights_proj.weight");
    const Mat keys = compressed(prefix + "compressor.", x, ratio, c_.index_head_dim, true);
    const double factor =
        1.0 / std::sqrt(static_cast<double>(c_.index_head_dim * c_.index_n_heads));
    std::vector<std::vector<int64_t>> picks;
    for (int64_t t = 0; t < x.rows; ++t) {
      const int64_t visible = std::min((t + 1) / ratio, keys.rows);
      std::vector<int64_t> order(static_cast<size_t>(visible));
      std::iota(order.begin(), order.end(), 0);
      std::vector<double> scores(static_cast<size_t>(visible));
      for (int64_t h = 0; h < c_.index_n_heads; ++h) {
        double* head = q.row(t) + h * c_.index_head_dim;
        rotate(head + c_.index_head_dim, t, true, false);
        if (official_) hadamard(head, c_.index_head_dim), snap_fp4(head, c_.index_head_dim);
        w.row(t)[h] = round(w.row(t)[h] * factor);
        for (int64_t e = 0; e < visible; ++e) {
          double dot = 0.0;
          for (int64_t i = 0; i < c_.index_head_dim; ++i) dot += head[i] * keys.row(e)[i];
          scores[e] += round(std::max(round(dot), 0.0) * w.row(t)[h]);
        }
      }
      for (double& score : scores) score = round(score);
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
      const int64_t kept = std::min(visible, c_.index_topk);
      result_->selection[layer_idx].push_back(choice(scores, order, kept));
      result_->index_scores[layer_idx].push_back(scores);
      order.resize(static_cast<size_t>(kept));
      std::sort(order.begin(), order.end());
      picks.push_back(std::move(order));
    }
    return picks;
  }

  void norm_query(double* head, int64_t dim) const {
    double sum = 0.0;
    for (int64_t i = 0; i < dim; ++i) sum += round(head[i] * head[i]);
    const double g =
        round(1.0 / std::sqrt(round(round(sum / static_cast<double>(dim)) + c_.rms_norm_eps)));
    for (int64_t i = 0; i < dim; ++i) head[i] = round(head[i] * g);
  }

  Mat attention(const std::string& prefix, int64_t layer_idx, const Mat& x) {
    const LayerConfig& layer = layers_[layer_idx];
    const int64_t heads = c_.num_attention_heads, dim = c_.head_dim;
    const bool compressed_rope = layer.ratio > 1;
    const Mat qn = rms_norm(linear(x, prefix + "wq_a.weight"), prefix + "q_norm.weight");
    Mat q = linear(qn, prefix + "wq_b.weight");
    for (int64_t t = 0; t < q.rows; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        double* head = q.row(t) + h * dim;
        if (normed_queries_) norm_query(head, dim);
        rotate(head + dim, t, compressed_rope, false);
      }
    }
    if (layer.kv_source == layer_idx) {
      Mat kv = rms_norm(linear(x, prefix + "wkv.weight"), prefix + "kv_norm.weight");
      for (int64_t t = 0; t < kv.rows; ++t) {
        rotate(kv.row(t) + dim, t, compressed_rope, false);
        if (official_) snap_fp8(kv.row(t), dim - c_.qk_rope_head_dim, 64);
      }
      kv_[layer_idx] = std::move(kv);
      if (layer.ratio > 1)
        entries_[layer_idx] = compressed(prefix + "compressor.", x, layer.ratio, dim, false);
    }
    if (layer.attention == AttentionKind::csa && layer.index_source == layer_idx) {
      picks_[layer_idx] = select(prefix + "indexer.", layer_idx, qn, x, layer.ratio);
      result_->picks[layer_idx] = picks_[layer_idx];
    }
    Mat out(x.rows, heads * dim);
    const double* sink = vector(prefix + "attn_sink");
    if (!status_.ok()) return Mat(x.rows, c_.hidden_size);
    const bool csa = layer.attention == AttentionKind::csa;
    for (int64_t t = 0; t < x.rows; ++t) {
      std::vector<double>* received = nullptr;
      if (csa) {
        const size_t num_picks = picks_.at(layer.index_source)[t].size();
        received = &result_->received[layer_idx].emplace_back(num_picks);
      }
      attend(layer, t, q.row(t), sink, out.row(t), received);
    }
    return output(prefix, out, compressed_rope);
  }

  // received: a place for each of the picked entries, or null.
  void attend(const LayerConfig& layer, int64_t t, const double* q, const double* sink, double* out,
              std::vector<double>* received) {
    const int64_t dim = c_.head_dim;
    std::vector<const double*> keys;
    const Mat& kv = kv_.at(layer.kv_source);
    const int64_t first = layer.attention == AttentionKind::full
                              ? 0
                              : std::max<int64_t>(0, t - c_.sliding_window + 1);
    for (int64_t p = first; p <= t; ++p) keys.push_back(kv.row(p));
    const size_t num_window = keys.size();
    if (layer.attention == AttentionKind::csa) {
      for (const int64_t e : picks_.at(layer.index_source)[t])
        keys.push_back(entries_.at(layer.kv_source).row(e));
    } else if (layer.attention == AttentionKind::hca) {
      for (int64_t e = 0; e < (t + 1) / layer.ratio; ++e)
        keys.push_back(entries_.at(layer.kv_source).row(e));
    }
    for (int64_t h = 0; h < c_.num_attention_heads; ++h) {
      std::vector<double> s(keys.size());
      double top = -std::numeric_limits<double>::infinity();
      for (size_t i = 0; i < keys.size(); ++i) {
        for (int64_t j = 0; j < dim; ++j) s[i] += q[h * dim + j] * keys[i][j];
        s[i] /= std::sqrt(static_cast<double>(dim));
        top = std::max(top, s[i]);
        result_->max_attention_logit = std::max(result_->max_attention_logit, std::fabs(s[i]));
      }
      double z = std::exp(sink[h] - top);
      for (double& score : s) z += score = std::exp(score - top);
      for (size_t i = num_window; received != nullptr && i < s.size(); ++i)
        (*received)[i - num_window] += s[i] / z;
      for (int64_t j = 0; j < dim; ++j) {
        double sum = 0.0;
        for (size_t i = 0; i < keys.size(); ++i) sum += round(s[i]) * keys[i][j];
        out[h * dim + j] = round(sum / z);
      }
    }
  }

  Mat output(const std::string& prefix, Mat& out, bool compressed_rope) {
    for (int64_t t = 0; t < out.rows; ++t) {
      for (int64_t h = 0; h < c_.num_attention_heads; ++h) {
        rotate(out.row(t) + (h + 1) * c_.head_dim, t, compressed_rope, true);
      }
    }
    const Mat& wo_a = weight(prefix + "wo_a.weight");
    Mat low(out.rows, c_.o_groups * c_.o_lora_rank);
    for (int64_t g = 0; g < c_.o_groups; ++g) {
      const Mat part = product(out, wo_a, g * c_.o_lora_rank, c_.o_lora_rank, g * wo_a.columns);
      for (int64_t t = 0; t < out.rows; ++t) {
        for (int64_t i = 0; i < c_.o_lora_rank; ++i)
          low.row(t)[g * c_.o_lora_rank + i] = round(part.row(t)[i]);
      }
    }
    return linear(low, prefix + "wo_b.weight");
  }

  Mat expert(const std::string& prefix, const Mat& x, const double* weights) {
    Mat g = linear(x, prefix + "w1.weight");
    const Mat u = linear(x, prefix + "w3.weight");
    const double limit =
        c_.swiglu_limit > 0 ? c_.swiglu_limit : std::numeric_limits<double>::infinity();
    for (int64_t t = 0; t < g.rows; ++t) {
      for (int64_t i = 0; i < g.columns; ++i) {
        const double gate = std::min(g.row(t)[i], limit);
        const double up = std::clamp(u.row(t)[i], -limit, limit);
        const double activation = gate / (1.0 + std::exp(-gate)) * up;
        result_->max_expert_activation =
            std::max(result_->max_expert_activation, std::fabs(activation));
        g.row(t)[i] = round(activation * (weights != nullptr ? weights[t] : 1.0));
      }
    }
    return linear(g, prefix + "w2.weight");
  }

  // reference/forward 4.
  Mat ffn(const std::string& prefix, int64_t layer_idx, const Mat& x,
          std::span<const int32_t> tokens) {
    Mat out(x.rows, c_.hidden_size);
    const bool dense = layers_[layer_idx].ffn == formats::FfnKind::dense;
    if (!dense) add_routed(prefix, layer_idx, x, tokens, out);
    const Mat shared = expert(dense ? prefix : prefix + "shared_experts.", x, nullptr);
    for (size_t i = 0; i < out.values.size(); ++i)
      out.values[i] = round(out.values[i] + shared.values[i]);
    return out;
  }

  void add_routed(const std::string& prefix, int64_t layer_idx, const Mat& x,
                  std::span<const int32_t> tokens, Mat& out) {
    const int64_t k = c_.num_experts_per_tok;
    const Mat z = linear(x, prefix + "gate.weight", true);
    const bool hash = layers_[layer_idx].ffn == formats::FfnKind::hash;
    const double* bias = hash ? nullptr : vector(prefix + "gate.bias");
    const std::vector<int32_t>& table = hash ? expert_ids(prefix + "gate.tid2eid") : no_ids_;
    if (!status_.ok()) return;
    std::vector<std::vector<std::pair<int64_t, double>>> of_expert(
        static_cast<size_t>(c_.n_routed_experts));
    for (int64_t t = 0; t < x.rows; ++t) {
      std::vector<double> a(static_cast<size_t>(c_.n_routed_experts));
      for (size_t e = 0; e < a.size(); ++e) {
        const double v = z.row(t)[e];
        a[e] = std::sqrt(v > 20.0 ? v : std::log1p(std::exp(v)));
      }
      std::vector<int64_t> order(a.size());
      std::iota(order.begin(), order.end(), 0);
      if (hash) {
        for (int64_t i = 0; i < k; ++i) order[i] = table[tokens[t] * k + i];
      } else {
        std::vector<double> scores(a);
        for (size_t e = 0; e < a.size(); ++e) scores[e] += bias[e];
        std::stable_sort(order.begin(), order.end(),
                         [&](int64_t p, int64_t q) { return scores[p] > scores[q]; });
        result_->router[layer_idx].push_back(choice(scores, order, k));
      }
      order.resize(static_cast<size_t>(k));
      std::sort(order.begin(), order.end());
      result_->experts[layer_idx].push_back(order);
      double sum = 0.0;
      for (const int64_t e : order) sum += a[e];
      for (const int64_t e : order)
        of_expert[e].emplace_back(t, a[e] / sum * c_.routed_scaling_factor);
    }
    for (int64_t e = 0; e < c_.n_routed_experts; ++e) {
      Mat rows(static_cast<int64_t>(of_expert[e].size()), x.columns);
      std::vector<double> weights;
      for (int64_t i = 0; i < rows.rows; ++i) {
        std::copy_n(x.row(of_expert[e][i].first), x.columns, rows.row(i));
        weights.push_back(of_expert[e][i].second);
      }
      const Mat y = expert(fmt::format("{}experts.{}.", prefix, e), rows, weights.data());
      for (int64_t i = 0; i < rows.rows; ++i) {
        for (int64_t j = 0; j < c_.hidden_size; ++j)
          out.row(of_expert[e][i].first)[j] += y.row(i)[j];
      }
    }
  }

  Mat head(const std::string& hyper, const std::string& norm, const Mat& streams) {
    Mat u = streams;
    if (num_streams() > 1) {
      std::vector<Mix> mixes;
      for (int64_t t = 0; t < streams.rows; ++t) {
        mixes.push_back(hyper_mix(streams.row(t), hyper, formats::ResidualKind::mhc, true));
      }
      u = mix_streams(streams, mixes);
    }
    return linear(rms_norm(u, norm), "head.weight", true);
  }

  // reference/forward 5.1: row p pairs the streams of p with token p + 1.
  std::vector<double> mtp(const Mat& streams) {
    const int64_t rows = streams.rows - 1, d = c_.hidden_size, n = num_streams();
    const std::span<const int32_t> next = tokens_.subspan(1);
    const Mat& table = weight("embed.weight");
    Mat embedded(rows, d);
    for (int64_t t = 0; t < rows; ++t) std::copy_n(table.row(next[t]), d, embedded.row(t));
    const Mat e = linear(rms_norm(embedded, "mtp.0.enorm.weight"), "mtp.0.e_proj.weight");
    Mat flat(rows * n, d);
    std::copy_n(streams.values.begin(), flat.values.size(), flat.values.begin());
    const Mat f = linear(rms_norm(flat, "mtp.0.hnorm.weight"), "mtp.0.h_proj.weight");
    Mat x(rows, n * d);
    for (int64_t i = 0; i < rows * n; ++i) {
      for (int64_t j = 0; j < d; ++j) x.values[i * d + j] = round(e.row(i / n)[j] + f.row(i)[j]);
    }
    run_layer("mtp.0.", c_.num_hidden_layers, x, next);
    return head("mtp.0.hc_head", "mtp.0.norm.weight", x).values;
  }

  const ModelConfig& c_;
  std::vector<LayerConfig> layers_;
  const model::WeightProvider& source_;
  bool official_;
  bool normed_queries_;
  std::span<const int32_t> tokens_;
  Reference64Result* result_ = nullptr;
  Status status_;
  std::map<std::string, Mat> weights_;
  std::vector<std::string> quantised_;
  std::map<std::string, std::vector<int32_t>> tables_;
  const std::vector<int32_t> no_ids_;
  std::map<int64_t, Mat> kv_, entries_;
  std::map<int64_t, std::vector<std::vector<int64_t>>> picks_;
};

}  // namespace

Result<Reference64Result> run_reference64(const ModelConfig& config,
                                          const model::WeightProvider& source,
                                          std::span<const int32_t> tokens, bool official,
                                          bool normed_queries) {
  return Reference(config, source, official, normed_queries).run(tokens);
}

}  // namespace cachalot::verify
