#include "verify/reference64.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "verify/reference64_attention.h"
#include "verify/reference64_moe.h"
#include "verify/reference64_ops.h"

namespace cachalot::verify {
namespace {

using formats::LayerConfig;
using formats::ModelConfig;

// The layers one after another, and the streams between them.
class Reference {
 public:
  Reference(const ModelConfig& config, const model::WeightProvider& source, bool official,
            bool normed_queries, Reference64Observer* observer = nullptr)
      : c_(config),
        layers_(formats::layer_configs(config)),
        ops_(config, source, official, observer),
        attention_(config, ops_, normed_queries, result_),
        moe_(config, ops_, result_) {}

  Result<Reference64Result> run(std::span<const int32_t> tokens) {
    tokens_ = tokens;
    Mat streams = embed_streams();
    for (int64_t layer = 0; layer < c_.num_hidden_layers; ++layer) {
      run_layer(fmt::format("layers.{}.", layer), layer, streams, tokens_);
      result_.layer_streams.push_back(streams.values);
    }
    result_.logits = head("hc_head", "norm.weight", streams).values;
    if (c_.num_nextn_predict_layers > 0) result_.mtp_logits = mtp(streams);
    if (!ops_.status().ok()) return ops_.status();
    return std::move(result_);
  }

  Status observe_layer(int64_t layer, std::span<const int32_t> tokens,
                       std::span<const float> values) {
    tokens_ = tokens;
    Mat streams = streams_of(values);
    run_layer(fmt::format("layers.{}.", layer), layer, streams, tokens);
    return ops_.status();
  }
  Status observe_mtp(std::span<const int32_t> tokens, std::span<const float> values) {
    tokens_ = tokens;
    mtp(streams_of(values));
    return ops_.status();
  }
  Status observe_head(std::span<const float> values) {
    head("hc_head", "norm.weight", streams_of(values));
    return ops_.status();
  }

 private:
  Mat streams_of(std::span<const float> values) const {
    const int64_t width = num_streams() * c_.hidden_size;
    Mat streams(static_cast<int64_t>(values.size()) / width, width);
    std::copy(values.begin(), values.end(), streams.values.begin());
    return streams;
  }

  Mat embed_streams() {
    const Mat& table = ops_.weight("embed.weight");
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

  // reference/forward 2.3, 2.4: pre [rows, n], and unless head_only post [rows, n] and comb
  // [rows, n * n].
  struct Mixes {
    Mat pre, post, comb;
  };
  Mixes hyper_mixes(const Mat& streams, const std::string& prefix, formats::ResidualKind kind,
                    bool head_only) {
    const int64_t n = c_.hc_mult, rows = streams.rows;
    Bounded pre = ops_.bounded(rows, n), post = ops_.bounded(rows, n),
            comb = ops_.bounded(rows, n * n);
    const Mat& fn = ops_.weight(prefix + "_fn");
    const double* base = ops_.vector(prefix + "_base");
    const double* scale = ops_.vector(prefix + "_scale");
    if (!ops_.status().ok()) return {pre.value, post.value, comb.value};
    const double norm_error = 0.5 * square_sum_error(streams.columns) + kFunction + 2 * kUnit;
    for (int64_t t = 0; t < rows; ++t) {
      const double* x = streams.row(t);
      double square = 0.0;
      for (int64_t i = 0; i < streams.columns; ++i) square += x[i] * x[i];
      const double f =
          1.0 / std::sqrt(square / static_cast<double>(streams.columns) + c_.rms_norm_eps);
      std::vector<double> m(static_cast<size_t>(fn.rows)), error(m.size());
      multiply(x, fn, 0, fn.rows, m.data(), error.data());
      auto argument = [&](int64_t i, int64_t part) {
        const double v = m[i] * f * scale[part];
        error[i] = std::fabs(scale[part]) * f * error[i] + std::fabs(v) * (norm_error + kUnit) +
                   kUnit * (std::fabs(v) + std::fabs(base[i]));
        m[i] = v + base[i];
      };
      auto sigmoid = [&](int64_t i, int64_t part, double factor, double added, Bounded& out,
                         int64_t at) {
        argument(i, part);
        const double v = factor / (1.0 + std::exp(-m[i]));
        out.value.row(t)[at] = v + added;
        if (!ops_.is_observed()) return;
        out.bound.row(t)[at] = v * (1.0 - v / factor) * error[i] + v * (kFunction + 2 * kUnit);
      };
      for (int64_t j = 0; j < n; ++j) sigmoid(j, 0, 1.0, c_.hc_eps, pre, j);
      if (head_only) continue;
      for (int64_t k = 0; k < n; ++k) sigmoid(n + k, 1, 2.0, 0.0, post, k);
      for (int64_t i = 0; i < n * n; ++i) argument(2 * n + i, 2);
      const std::span entries(m.data() + 2 * n, static_cast<size_t>(n * n));
      const std::vector<double> out = mixing(entries, kind);
      std::copy(out.begin(), out.end(), comb.value.row(t));
      if (!ops_.is_observed()) continue;
      for (int64_t i = 0; i < n * n; ++i) {
        // Every pass over the lines errs as another argument would.
        const double e =
            error[2 * n + i] + static_cast<double>(2 * c_.hc_sinkhorn_iters * (n + 3)) * kUnit;
        add_influence(entries, i, e, kind, comb.bound.row(t));
      }
    }
    Mixes mixes{ops_.settle("hc.pre", std::move(pre), false), {}, {}};
    if (head_only) return mixes;
    mixes.post = ops_.settle("hc.post", std::move(post), false);
    mixes.comb = ops_.settle("hc.comb", std::move(comb), false);
    return mixes;
  }
  std::vector<double> mixing(std::span<const double> arguments, formats::ResidualKind kind) const {
    const int64_t n = c_.hc_mult;
    std::vector<double> comb(arguments.begin(), arguments.end());
    if (kind == formats::ResidualKind::unconstrained) {
      for (int64_t j = 0; j < n; ++j) comb[j * n + j] += 1.0;
    } else {
      sinkhorn(comb, n);
    }
    return comb;
  }
  // bound += what an error e of argument i does, to first order.
  void add_influence(std::span<const double> arguments, int64_t i, double e,
                     formats::ResidualKind kind, double* bound) const {
    constexpr double kStep = 1e-5;
    std::vector<double> moved(arguments.begin(), arguments.end());
    moved[i] += kStep;
    const std::vector<double> above = mixing(moved, kind);
    moved[i] -= 2 * kStep;
    const std::vector<double> below = mixing(moved, kind);
    for (size_t q = 0; q < above.size(); ++q)
      bound[q] += std::fabs(above[q] - below[q]) / (2 * kStep) * e;
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
  Mat mix_streams(const Mat& streams, const Mat& pre) {
    Bounded u = ops_.bounded(streams.rows, c_.hidden_size);
    const auto n = static_cast<double>(c_.hc_mult);
    for (int64_t t = 0; t < streams.rows; ++t) {
      for (int64_t i = 0; i < c_.hidden_size; ++i) {
        double sum = 0.0, size = 0.0;
        for (int64_t j = 0; j < c_.hc_mult; ++j) {
          const double term = pre.row(t)[j] * streams.row(t)[j * c_.hidden_size + i];
          sum += term;
          size += std::fabs(term);
        }
        u.value.row(t)[i] = sum;
        if (ops_.is_observed()) u.bound.row(t)[i] = (n + 1) * kUnit * size;
      }
    }
    return ops_.settle("hc.u", std::move(u), true);
  }

  template <typename Body>
  void sublayer(const std::string& hyper, const std::string& norm, formats::ResidualKind kind,
                Mat& streams, Body body) {
    const int64_t n = num_streams(), d = c_.hidden_size;
    Bounded merged = ops_.bounded(streams.rows, streams.columns);
    if (kind == formats::ResidualKind::plain) {
      const Mat y = body(ops_.rms_norm("norm", streams, norm));
      for (size_t i = 0; i < streams.values.size(); ++i) {
        merged.value.values[i] = streams.values[i] + y.values[i];
        if (ops_.is_observed()) merged.bound.values[i] = kUnit * std::fabs(merged.value.values[i]);
      }
      streams = ops_.settle("hc.streams", std::move(merged), true);
      return;
    }
    const Mixes mixes = hyper_mixes(streams, hyper, kind, false);
    const Mat y = body(ops_.rms_norm("norm", mix_streams(streams, mixes.pre), norm));
    for (int64_t t = 0; t < streams.rows; ++t) {
      for (int64_t k = 0; k < n; ++k) {
        for (int64_t i = 0; i < d; ++i) {
          double sum = mixes.post.row(t)[k] * y.row(t)[i], size = std::fabs(sum);
          for (int64_t j = 0; j < n; ++j) {
            const double term = mixes.comb.row(t)[j * n + k] * streams.row(t)[j * d + i];
            sum += term;
            size += std::fabs(term);
          }
          merged.value.row(t)[k * d + i] = sum;
          if (ops_.is_observed())
            merged.bound.row(t)[k * d + i] = static_cast<double>(n + 2) * kUnit * size;
        }
      }
    }
    streams = ops_.settle("hc.streams", std::move(merged), true);
  }

  void run_layer(const std::string& prefix, int64_t layer_idx, Mat& streams,
                 std::span<const int32_t> tokens) {
    const LayerConfig& layer = layers_[layer_idx];
    sublayer(prefix + "hc_attn", prefix + "attn_norm.weight", layer.residual, streams,
             [&](const Mat& x) { return attention_.attention(prefix + "attn.", layer_idx, x); });
    sublayer(prefix + "hc_ffn", prefix + "ffn_norm.weight", layer.residual, streams,
             [&](const Mat& x) { return moe_.ffn(prefix + "ffn.", layer_idx, x, tokens); });
  }

  Mat head(const std::string& hyper, const std::string& norm, const Mat& streams) {
    Mat u = streams;
    if (num_streams() > 1) {
      u = mix_streams(streams, hyper_mixes(streams, hyper, formats::ResidualKind::mhc, true).pre);
    }
    return ops_.linear("logits", ops_.rms_norm("norm", u, norm), "head.weight", true);
  }

  // reference/forward 5.1: row p pairs the streams of p with token p + 1.
  std::vector<double> mtp(const Mat& streams) {
    const auto rows = static_cast<int64_t>(tokens_.size()) - 1;
    const int64_t d = c_.hidden_size, n = num_streams();
    const std::span<const int32_t> next = tokens_.subspan(1);
    const Mat& table = ops_.weight("embed.weight");
    Mat embedded(rows, d);
    for (int64_t t = 0; t < rows; ++t) std::copy_n(table.row(next[t]), d, embedded.row(t));
    const Mat e = ops_.linear("e_proj", ops_.rms_norm("enorm", embedded, "mtp.0.enorm.weight"),
                              "mtp.0.e_proj.weight");
    Mat flat(rows * n, d);
    std::copy_n(streams.values.begin(), flat.values.size(), flat.values.begin());
    std::vector<int64_t> tokens;  // of the streams
    for (int64_t i = 0; i < rows * n; ++i) tokens.push_back(i / n);
    const Mat f = ops_.linear("h_proj", ops_.rms_norm("hnorm", flat, "mtp.0.hnorm.weight", tokens),
                              "mtp.0.h_proj.weight", false, tokens);
    Bounded x = ops_.bounded(rows, n * d);
    for (int64_t i = 0; i < rows * n; ++i) {
      for (int64_t j = 0; j < d; ++j) {
        x.value.values[i * d + j] = e.row(i / n)[j] + f.row(i)[j];
        if (ops_.is_observed())
          x.bound.values[i * d + j] = kUnit * std::fabs(x.value.values[i * d + j]);
      }
    }
    Mat merged = ops_.settle("mtp.streams", std::move(x), true);
    run_layer("mtp.0.", c_.num_hidden_layers, merged, next);
    return head("mtp.0.hc_head", "mtp.0.norm.weight", merged).values;
  }

  const ModelConfig& c_;
  std::vector<LayerConfig> layers_;
  Ops64 ops_;
  Reference64Result result_;
  Attention64 attention_;
  Moe64 moe_;
  std::span<const int32_t> tokens_;
};

}  // namespace

Result<Reference64Result> run_reference64(const ModelConfig& config,
                                          const model::WeightProvider& source,
                                          std::span<const int32_t> tokens, bool official,
                                          bool normed_queries) {
  return Reference(config, source, official, normed_queries).run(tokens);
}

Status observe_layer64(const ModelConfig& config, const model::WeightProvider& source,
                       int64_t layer, std::span<const int32_t> tokens,
                       std::span<const float> streams, Reference64Observer& observer) {
  return Reference(config, source, true, true, &observer).observe_layer(layer, tokens, streams);
}

Status observe_mtp64(const ModelConfig& config, const model::WeightProvider& source,
                     std::span<const int32_t> tokens, std::span<const float> streams,
                     Reference64Observer& observer) {
  return Reference(config, source, true, true, &observer).observe_mtp(tokens, streams);
}

Status observe_head64(const ModelConfig& config, const model::WeightProvider& source,
                      std::span<const float> streams, Reference64Observer& observer) {
  return Reference(config, source, true, true, &observer).observe_head(streams);
}

}  // namespace cachalot::verify
