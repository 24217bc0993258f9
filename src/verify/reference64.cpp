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

// Unit roundoff of fp32: the relative error of one operation.
constexpr double kUnit = 0x1p-24;
// An fp32 evaluation of exp, sigmoid or 1/sqrt errs by less than this, relatively.
constexpr double kFunction = 4 * kUnit;
// A sum of n squares runs in 16 chains or more: every term passes so many additions, and none
// cancel.
double square_sum_error(int64_t n) { return (static_cast<double>(n) / 16.0 + 5.0) * kUnit; }
// The error of fp32 additions is at most kUnit times the sum of the magnitudes of all partial sums.
// They are those of a chain in ascending order; adding pairs of products, the second first, has up
// to three times as much.
constexpr double kChain = 3 * kUnit;

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
  for (int64_t i = 0; i < n; ++i) x[i] /= std::sqrt(static_cast<double>(n));
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
            bool normed_queries, Reference64Observer* observer = nullptr)
      : observer_(observer),
        c_(config),
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

  Status observe_layer(int64_t layer, std::span<const int32_t> tokens,
                       std::span<const float> values) {
    tokens_ = tokens;
    Reference64Result result;
    result_ = &result;
    Mat streams = streams_of(values);
    run_layer(fmt::format("layers.{}.", layer), layer, streams, tokens);
    return status_;
  }
  Status observe_mtp(std::span<const int32_t> tokens, std::span<const float> values) {
    tokens_ = tokens;
    Reference64Result result;
    result_ = &result;
    mtp(streams_of(values));
    return status_;
  }
  Status observe_head(std::span<const float> values) {
    head("hc_head", "norm.weight", streams_of(values));
    return status_;
  }

 private:
  double round(double x) const { return official_ ? bf16(x) : x; }

  Mat streams_of(std::span<const float> values) const {
    const int64_t width = num_streams() * c_.hidden_size;
    Mat streams(static_cast<int64_t>(values.size()) / width, width);
    std::copy(values.begin(), values.end(), streams.values.begin());
    return streams;
  }

  // A result whose fp32 evaluations lie within `bound` of it; the bound is there for an observer
  // alone.
  struct Bounded {
    Mat value;
    Mat bound;
    Bounded(int64_t rows, int64_t columns, bool bounded)
        : value(rows, columns), bound(bounded ? rows : 0, bounded ? columns : 0) {}
    explicit Bounded(Mat exact) : value(std::move(exact)), bound(value.rows, value.columns) {}
  };
  Bounded bounded(int64_t rows, int64_t columns) const {
    return {rows, columns, observer_ != nullptr};
  }

  // The op's result: rounded to bf16 where it is, and what an observer puts in its place.
  Mat settle(std::string_view name, Bounded y, bool rounds, std::span<const int64_t> tokens = {}) {
    auto rounded = [&](double v) { return rounds ? round(v) : v; };
    if (observer_ != nullptr) {
      Mat lo = y.value, hi = std::move(y.bound);
      for (size_t i = 0; i < lo.values.size(); ++i) {
        const double v = lo.values[i], b = hi.values[i];
        lo.values[i] = rounded(v - b);
        hi.values[i] = rounded(v + b);
      }
      for (double& v : y.value.values) v = rounded(v);
      observer_->on_op({name, rounds, tokens, lo, hi}, y.value);
    } else if (rounds) {
      for (double& v : y.value.values) v = round(v);
    }
    return std::move(y.value);
  }

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

  // y += one row's products with num_rows rows of w; bound likewise, or null.
  static void multiply(const double* x, const Mat& w, int64_t first_row, int64_t num_rows,
                       double* y, double* bound) {
    constexpr int64_t kTogether = 4;  // chains, for the processor to overlap
    for (int64_t o = 0; o < num_rows; o += kTogether) {
      const int64_t n = std::min(kTogether, num_rows - o);
      double sum[kTogether] = {}, partial[kTogether] = {};
      const double* rows[kTogether];
      for (int64_t j = 0; j < kTogether; ++j) rows[j] = w.row(first_row + o + std::min(j, n - 1));
      for (int64_t i = 0; i < w.columns; ++i) {
        for (int64_t j = 0; j < kTogether; ++j) {
          sum[j] += x[i] * rows[j][i];
          partial[j] += std::fabs(sum[j]);
        }
      }
      for (int64_t j = 0; j < n; ++j) {
        y[o + j] = sum[j];
        if (bound != nullptr) bound[o + j] = kChain * partial[j];
      }
    }
  }

  // Rows of y from first_row on, of the rows of x from there on: LIN8, LIN4 or LINB by what the
  // weight is, before the rounding.
  void multiply_rows(const Mat& x, int64_t first_row, int64_t num_rows, const std::string& name,
                     Bounded& y) {
    const Mat& w = weight(name);
    if (!status_.ok()) return;
    const bool quantised =
        std::find(quantised_.begin(), quantised_.end(), name) != quantised_.end();
    std::vector<double> input(static_cast<size_t>(x.columns));
    for (int64_t t = first_row; t < first_row + num_rows; ++t) {
      std::copy_n(x.row(t), x.columns, input.begin());
      if (official_ && quantised) snap_fp8(input.data(), x.columns, 128);
      multiply(input.data(), w, 0, w.rows, y.value.row(t),
               observer_ != nullptr ? y.bound.row(t) : nullptr);
    }
  }

  // LINF where keep_f32.
  Mat linear(std::string_view op, const Mat& x, const std::string& name, bool keep_f32 = false,
             std::span<const int64_t> tokens = {}) {
    Bounded y = bounded(x.rows, weight(name).rows);
    multiply_rows(x, 0, x.rows, name, y);
    return settle(op, std::move(y), !keep_f32, tokens);
  }

  Mat rms_norm(std::string_view op, const Mat& x, const std::string& name,
               std::span<const int64_t> tokens = {}) {
    const double* g = vector(name);
    const double error = 0.5 * square_sum_error(x.columns) + kFunction + 3 * kUnit;
    Bounded y = bounded(x.rows, x.columns);
    for (int64_t t = 0; t < x.rows && status_.ok(); ++t) {
      double sum = 0.0;
      for (int64_t i = 0; i < x.columns; ++i) sum += x.row(t)[i] * x.row(t)[i];
      const double f = 1.0 / std::sqrt(sum / static_cast<double>(x.columns) + c_.rms_norm_eps);
      for (int64_t i = 0; i < x.columns; ++i) {
        y.value.row(t)[i] = g[i] * (x.row(t)[i] * f);
        if (observer_ != nullptr) y.bound.row(t)[i] = error * std::fabs(y.value.row(t)[i]);
      }
    }
    return settle(op, std::move(y), true, tokens);
  }

  // reference/forward 0.7: the last rope_dim values of every head of row t, at positions[t].
  Mat rotate(std::string_view op, Mat x, int64_t heads, std::span<const int64_t> positions,
             bool compressed, bool inverse, std::span<const int64_t> tokens = {}) {
    const int64_t dim = c_.qk_rope_head_dim, head_dim = x.columns / heads;
    const std::vector<float> frequencies = rope_frequencies(compressed);
    Bounded y = bounded(x.rows, x.columns);
    y.value = std::move(x);
    for (int64_t t = 0; t < y.value.rows; ++t) {
      for (int64_t i = 0; i < dim / 2; ++i) {
        const double angle = static_cast<float>(positions[t]) * frequencies[i];
        const double cosine = std::cos(angle), sine = inverse ? -std::sin(angle) : std::sin(angle);
        for (int64_t h = 0; h < heads; ++h) {
          const int64_t at = (h + 1) * head_dim - dim + 2 * i;
          double* pair = y.value.row(t) + at;
          const double a = pair[0], b = pair[1];
          pair[0] = a * cosine - b * sine;
          pair[1] = a * sine + b * cosine;
          if (observer_ == nullptr) continue;
          // A table entry, two products and a sum.
          y.bound.row(t)[at] = y.bound.row(t)[at + 1] = 3 * kUnit * (std::fabs(a) + std::fabs(b));
        }
      }
    }
    return settle(op, std::move(y), true, tokens);
  }
  // In fp32: one ulp of a frequency is an angle's at every position.
  std::vector<float> rope_frequencies(bool compressed) const {
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
    std::vector<float> frequencies;
    for (int64_t i = 0; i < dim / 2; ++i) {
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
      const float base = 1.0f / static_cast<float>(std::pow(theta, exponent));
      const float ramp =
          std::clamp(static_cast<float>((static_cast<double>(i) - low) / (high - low)), 0.0f, 1.0f);
      const float keep = 1.0f - ramp;
      const bool scaled = compressed && yarn.factor != 1.0;
      frequencies.push_back(
          scaled ? base / static_cast<float>(yarn.factor) * (1.0f - keep) + base * keep : base);
    }
    return frequencies;
  }
  // 0, step, 2 * step, ...: positions of rows, or of entries.
  static std::vector<int64_t> positions(int64_t count, int64_t step = 1) {
    std::vector<int64_t> out(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) out[i] = i * step;
    return out;
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

  // reference/forward 2.3, 2.4: pre [rows, n], and unless head_only post [rows, n] and comb
  // [rows, n * n].
  struct Mixes {
    Mat pre, post, comb;
  };
  Mixes hyper_mixes(const Mat& streams, const std::string& prefix, formats::ResidualKind kind,
                    bool head_only) {
    const int64_t n = c_.hc_mult, rows = streams.rows;
    Bounded pre = bounded(rows, n), post = bounded(rows, n), comb = bounded(rows, n * n);
    const Mat& fn = weight(prefix + "_fn");
    const double* base = vector(prefix + "_base");
    const double* scale = vector(prefix + "_scale");
    if (!status_.ok()) return {pre.value, post.value, comb.value};
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
        if (observer_ == nullptr) return;
        out.bound.row(t)[at] = v * (1.0 - v / factor) * error[i] + v * (kFunction + 2 * kUnit);
      };
      for (int64_t j = 0; j < n; ++j) sigmoid(j, 0, 1.0, c_.hc_eps, pre, j);
      if (head_only) continue;
      for (int64_t k = 0; k < n; ++k) sigmoid(n + k, 1, 2.0, 0.0, post, k);
      for (int64_t i = 0; i < n * n; ++i) argument(2 * n + i, 2);
      const std::span entries(m.data() + 2 * n, static_cast<size_t>(n * n));
      const std::vector<double> out = mixing(entries, kind);
      std::copy(out.begin(), out.end(), comb.value.row(t));
      if (observer_ == nullptr) continue;
      for (int64_t i = 0; i < n * n; ++i) {
        // Every pass over the lines errs as another argument would.
        const double e =
            error[2 * n + i] + static_cast<double>(2 * c_.hc_sinkhorn_iters * (n + 3)) * kUnit;
        add_influence(entries, i, e, kind, comb.bound.row(t));
      }
    }
    Mixes mixes{settle("hc.pre", std::move(pre), false), {}, {}};
    if (head_only) return mixes;
    mixes.post = settle("hc.post", std::move(post), false);
    mixes.comb = settle("hc.comb", std::move(comb), false);
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
    Bounded u = bounded(streams.rows, c_.hidden_size);
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
        if (observer_ != nullptr) u.bound.row(t)[i] = (n + 1) * kUnit * size;
      }
    }
    return settle("hc.u", std::move(u), true);
  }

  template <typename Body>
  void sublayer(const std::string& hyper, const std::string& norm, formats::ResidualKind kind,
                Mat& streams, Body body) {
    const int64_t n = num_streams(), d = c_.hidden_size;
    Bounded merged = bounded(streams.rows, streams.columns);
    if (kind == formats::ResidualKind::plain) {
      const Mat y = body(rms_norm("norm", streams, norm));
      for (size_t i = 0; i < streams.values.size(); ++i) {
        merged.value.values[i] = streams.values[i] + y.values[i];
        if (observer_ != nullptr)
          merged.bound.values[i] = kUnit * std::fabs(merged.value.values[i]);
      }
      streams = settle("hc.streams", std::move(merged), true);
      return;
    }
    const Mixes mixes = hyper_mixes(streams, hyper, kind, false);
    const Mat y = body(rms_norm("norm", mix_streams(streams, mixes.pre), norm));
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
          if (observer_ != nullptr)
            merged.bound.row(t)[k * d + i] = static_cast<double>(n + 2) * kUnit * size;
        }
      }
    }
    streams = settle("hc.streams", std::move(merged), true);
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
    const Mat ks = keys_and_scores(prefix, x, ratio);
    const int64_t columns = ks.columns / 2;
    Bounded pooled = bounded(x.rows / ratio, width);
    std::vector<int64_t> tokens;  // the last of every entry
    for (int64_t e = 0; e < pooled.value.rows; ++e) {
      tokens.push_back((e + 1) * ratio - 1);
      for (int64_t i = 0; i < width && status_.ok(); ++i) {
        std::vector<std::pair<double, double>> slots;  // (score, value)
        auto add = [&](int64_t window, int64_t channel) {
          for (int64_t t = window * ratio; t < (window + 1) * ratio; ++t)
            slots.emplace_back(ks.row(t)[columns + channel], ks.row(t)[channel]);
        };
        if (overlap && e > 0) add(e - 1, i);
        add(e, overlap ? width + i : i);
        pooled.value.row(e)[i] =
            pool(slots, observer_ != nullptr ? &pooled.bound.row(e)[i] : nullptr);
      }
    }
    Mat out = settle("compress.pooled", std::move(pooled), true, tokens);
    out = rms_norm("compress.norm", out, prefix + "norm.weight", tokens);
    const std::vector<int64_t> first = positions(out.rows, ratio);
    out = rotate("compress.rope", std::move(out), 1, first, true, false, tokens);
    if (!official_) return out;
    if (index) return snap_index("compress", std::move(out), width, tokens);
    for (int64_t e = 0; e < out.rows; ++e) snap_fp8(out.row(e), width - c_.qk_rope_head_dim, 64);
    return settle("compress.row", Bounded(std::move(out)), true, tokens);
  }

  // K and S side by side.
  Mat keys_and_scores(const std::string& prefix, const Mat& x, int64_t ratio) {
    const double* ape = vector(prefix + "ape");
    const int64_t columns = weight(prefix + "wkv.weight").rows;
    Bounded k = bounded(x.rows, columns), s = bounded(x.rows, columns),
            ks = bounded(x.rows, 2 * columns);
    multiply_rows(x, 0, x.rows, prefix + "wkv.weight", k);
    multiply_rows(x, 0, x.rows, prefix + "wgate.weight", s);
    for (int64_t t = 0; t < x.rows && status_.ok(); ++t) {
      for (int64_t i = 0; i < columns; ++i) {
        const double score = s.value.row(t)[i] + ape[t % ratio * columns + i];
        ks.value.row(t)[i] = k.value.row(t)[i];
        ks.value.row(t)[columns + i] = score;
        if (observer_ == nullptr) continue;
        ks.bound.row(t)[i] = k.bound.row(t)[i];
        ks.bound.row(t)[columns + i] = s.bound.row(t)[i] + kUnit * std::fabs(score);
      }
    }
    return settle("compress.kv", std::move(ks), false);
  }

  // slots: (score, value).
  static double pool(const std::vector<std::pair<double, double>>& slots, double* bound) {
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

  // Hadamard and SIM4 of every head of `dim`.
  Mat snap_index(const std::string& op, Mat x, int64_t dim, std::span<const int64_t> tokens = {}) {
    Bounded y = bounded(x.rows, x.columns);
    y.value = std::move(x);
    const double stages = std::log2(static_cast<double>(dim)) + 1;
    for (int64_t t = 0; t < y.value.rows; ++t) {
      for (int64_t i = 0; i < y.value.columns; i += dim) {
        double* head = y.value.row(t) + i;
        double size = 0.0;
        for (int64_t j = 0; j < dim; ++j) size += std::fabs(head[j]);
        hadamard(head, dim);
        if (observer_ == nullptr) continue;
        const double bound = stages * kUnit * size / std::sqrt(static_cast<double>(dim));
        std::fill_n(y.bound.row(t) + i, dim, bound);
      }
    }
    Mat out = settle(op + ".hadamard", std::move(y), true, tokens);
    for (int64_t t = 0; t < out.rows; ++t) {
      for (int64_t i = 0; i < out.columns; i += dim) snap_fp4(out.row(t) + i, dim);
    }
    return settle(op + ".row", Bounded(std::move(out)), true, tokens);
  }

  // reference/forward 3.6: the picks of every row, ascending.
  std::vector<std::vector<int64_t>> select(const std::string& prefix, int64_t layer_idx,
                                           const Mat& qn, const Mat& x, int64_t ratio) {
    const int64_t heads = c_.index_n_heads, dim = c_.index_head_dim;
    const Mat keys = compressed(prefix + "compressor.", x, ratio, dim, true);
    Mat q = linear("index.q", qn, prefix + "wq_b.weight");
    q = rotate("index.rope", std::move(q), heads, positions(x.rows), true, false);
    if (official_) q = snap_index("index", std::move(q), dim);
    Bounded scaled(linear("index.weight", x, prefix + "weights_proj.weight"));
    const double factor = 1.0 / std::sqrt(static_cast<double>(dim * heads));
    for (size_t i = 0; i < scaled.value.values.size(); ++i) {
      scaled.value.values[i] *= factor;
      scaled.bound.values[i] = 2 * kUnit * std::fabs(scaled.value.values[i]);
    }
    const Mat w = settle("index.scaled_weight", std::move(scaled), true);
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
            const double term = round(std::max(round(dot), 0.0) * weight);
            sum += term;
            size += std::fabs(term);
          }
          return round(sum + side * static_cast<double>(heads) * kUnit * size);
        };
        scores[e] = score(0.0);
        lo[e] = observer_ != nullptr ? score(-1.0) : scores[e];
        hi[e] = observer_ != nullptr ? score(1.0) : scores[e];
      }
      std::vector<int64_t> order(count);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
      const int64_t kept = std::min(visible, c_.index_topk);
      result_->selection[layer_idx].push_back(choice(scores, order, kept));
      result_->index_scores[layer_idx].push_back(scores);
      order.resize(static_cast<size_t>(kept));
      std::sort(order.begin(), order.end());
      if (observer_ != nullptr) observer_->on_choice("selection", t, lo, hi, order);
      picks.push_back(std::move(order));
    }
    return picks;
  }

  // reference/forward 3.1, in bf16 steps: a mean near an edge has two factors.
  Mat norm_queries(const Mat& q) {
    const int64_t dim = c_.head_dim;
    Mat lo = q, hi = q, value = q;
    for (int64_t t = 0; t < q.rows; ++t) {
      for (int64_t h = 0; h < c_.num_attention_heads; ++h) {
        const double* x = q.row(t) + h * dim;
        double sum = 0.0;
        for (int64_t i = 0; i < dim; ++i) sum += round(x[i] * x[i]);
        const auto factor = [&](double error) {
          const double mean = round(sum * (1.0 + error) / static_cast<double>(dim));
          return round(1.0 / std::sqrt(round(mean + c_.rms_norm_eps)));
        };
        const double error = square_sum_error(dim);
        const double g = factor(0.0), least = factor(error), most = factor(-error);
        for (int64_t i = 0; i < dim; ++i) {
          const int64_t at = h * dim + i;
          value.row(t)[at] = round(x[i] * g);
          const double a = round(x[i] * least), b = round(x[i] * most);
          lo.row(t)[at] = std::min(a, b);
          hi.row(t)[at] = std::max(a, b);
        }
      }
    }
    if (observer_ != nullptr) observer_->on_op({"q.head_norm", true, {}, lo, hi}, value);
    return value;
  }

  Mat attention(const std::string& prefix, int64_t layer_idx, const Mat& x) {
    const LayerConfig& layer = layers_[layer_idx];
    const int64_t heads = c_.num_attention_heads, dim = c_.head_dim;
    const bool compressed_rope = layer.ratio > 1;
    const std::vector<int64_t> rows = positions(x.rows);
    const Mat qn =
        rms_norm("q_a.norm", linear("q_a", x, prefix + "wq_a.weight"), prefix + "q_norm.weight");
    Mat q = linear("q", qn, prefix + "wq_b.weight");
    if (normed_queries_) q = norm_queries(q);
    q = rotate("q.rope", std::move(q), heads, rows, compressed_rope, false);
    if (layer.kv_source == layer_idx) {
      Mat kv =
          rms_norm("kv.norm", linear("kv", x, prefix + "wkv.weight"), prefix + "kv_norm.weight");
      kv = rotate("kv.rope", std::move(kv), 1, rows, compressed_rope, false);
      if (official_) {
        for (int64_t t = 0; t < kv.rows; ++t) snap_fp8(kv.row(t), dim - c_.qk_rope_head_dim, 64);
        kv = settle("kv.row", Bounded(std::move(kv)), true);
      }
      kv_[layer_idx] = std::move(kv);
      if (layer.ratio > 1)
        entries_[layer_idx] = compressed(prefix + "compressor.", x, layer.ratio, dim, false);
    }
    if (layer.attention == AttentionKind::csa && layer.index_source == layer_idx) {
      picks_[layer_idx] = select(prefix + "indexer.", layer_idx, qn, x, layer.ratio);
      result_->picks[layer_idx] = picks_[layer_idx];
    }
    Bounded out = bounded(x.rows, heads * dim);
    const double* sink = vector(prefix + "attn_sink");
    if (!status_.ok()) return Mat(x.rows, c_.hidden_size);
    const bool csa = layer.attention == AttentionKind::csa;
    for (int64_t t = 0; t < x.rows; ++t) {
      std::vector<double>* received = nullptr;
      if (csa) {
        const size_t num_picks = picks_.at(layer.index_source)[t].size();
        received = &result_->received[layer_idx].emplace_back(num_picks);
      }
      attend(layer, t, q.row(t), sink, out, received);
    }
    Mat o = settle("attention", std::move(out), true);
    o = rotate("attention.rope", std::move(o), heads, rows, compressed_rope, true);
    return output(prefix, o);
  }

  // The rows that token t reads, in the order of its sums.
  Mat keys_of(const LayerConfig& layer, int64_t t, int64_t& num_window) {
    std::vector<const double*> keys;
    const Mat& kv = kv_.at(layer.kv_source);
    const int64_t first = layer.attention == AttentionKind::full
                              ? 0
                              : std::max<int64_t>(0, t - c_.sliding_window + 1);
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

  // reference/forward 3.7. received: a place for each of the picked entries, or null.
  void attend(const LayerConfig& layer, int64_t t, const double* q, const double* sink,
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
        result_->max_attention_logit = std::max(result_->max_attention_logit, std::fabs(s[i]));
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
        const double p = round(s[i]);
        const double* key = keys.row(static_cast<int64_t>(i));
        for (int64_t j = 0; j < dim; ++j) sum[j] += p * key[j];
        if (observer_ == nullptr) continue;
        const double step = round(s[i] * (1 + error[i])) - round(s[i] * (1 - error[i]));
        for (int64_t j = 0; j < dim; ++j) {
          partial[j] += std::fabs(sum[j]);
          turned[j] += step * std::fabs(key[j]);
        }
      }
      for (int64_t j = 0; j < dim; ++j) {
        const double value = sum[j] / z;
        out.value.row(t)[h * dim + j] = value;
        if (observer_ == nullptr) continue;
        out.bound.row(t)[h * dim + j] =
            (turned[j] + kChain * partial[j]) / z + std::fabs(value) * (z_error + 2 * kUnit);
      }
    }
  }

  Mat output(const std::string& prefix, const Mat& out) {
    const Mat& wo_a = weight(prefix + "wo_a.weight");
    Bounded low = bounded(out.rows, c_.o_groups * c_.o_lora_rank);
    for (int64_t t = 0; t < out.rows && status_.ok(); ++t) {
      for (int64_t g = 0; g < c_.o_groups; ++g) {
        const int64_t first = g * c_.o_lora_rank;
        multiply(out.row(t) + g * wo_a.columns, wo_a, first, c_.o_lora_rank,
                 low.value.row(t) + first,
                 observer_ != nullptr ? low.bound.row(t) + first : nullptr);
      }
    }
    return linear("wo_b", settle("wo_a", std::move(low), true), prefix + "wo_b.weight");
  }

  // Rows [first_row, ...) of x that one expert works on.
  struct ExpertRows {
    std::string prefix;
    int64_t first_row;
    int64_t num_rows;
  };
  // weights of the rows, or null.
  Mat experts(const std::string& op, const std::vector<ExpertRows>& groups, const Mat& x,
              const double* weights, std::span<const int64_t> tokens) {
    auto product = [&](const char* suffix, const Mat& input, const char* name) {
      Bounded y = bounded(input.rows, weight(groups[0].prefix + name).rows);
      for (const ExpertRows& group : groups)
        multiply_rows(input, group.first_row, group.num_rows, group.prefix + name, y);
      return settle(op + suffix, std::move(y), true, tokens);
    };
    const Mat g = product(".gate", x, "w1.weight"), u = product(".up", x, "w3.weight");
    const double limit =
        c_.swiglu_limit > 0 ? c_.swiglu_limit : std::numeric_limits<double>::infinity();
    Bounded h = bounded(g.rows, g.columns);
    for (int64_t t = 0; t < g.rows; ++t) {
      for (int64_t i = 0; i < g.columns; ++i) {
        const double gate = std::min(g.row(t)[i], limit);
        const double up = std::clamp(u.row(t)[i], -limit, limit);
        const double activation = gate / (1.0 + std::exp(-gate)) * up;
        result_->max_expert_activation =
            std::max(result_->max_expert_activation, std::fabs(activation));
        const double value = activation * (weights != nullptr ? weights[t] : 1.0);
        h.value.row(t)[i] = value;
        if (observer_ != nullptr) h.bound.row(t)[i] = std::fabs(value) * (kFunction + 4 * kUnit);
      }
    }
    return product(".down", settle(op + ".hidden", std::move(h), true, tokens), "w2.weight");
  }

  // reference/forward 4.
  Mat ffn(const std::string& prefix, int64_t layer_idx, const Mat& x,
          std::span<const int32_t> tokens) {
    const bool dense = layers_[layer_idx].ffn == formats::FfnKind::dense;
    Bounded out = bounded(x.rows, c_.hidden_size);
    if (!dense) add_routed(prefix, layer_idx, x, tokens, out);
    const Mat shared = experts("shared", {{dense ? prefix : prefix + "shared_experts.", 0, x.rows}},
                               x, nullptr, {});
    if (dense) return shared;
    for (size_t i = 0; i < out.value.values.size(); ++i) {
      out.value.values[i] += shared.values[i];
      if (observer_ == nullptr) continue;
      out.bound.values[i] = static_cast<double>(c_.num_experts_per_tok) * kUnit *
                            (out.bound.values[i] + std::fabs(shared.values[i]));
    }
    return settle("ffn", std::move(out), true);
  }

  // The experts of every row, ascending, and their weights.
  struct Routes {
    std::vector<std::vector<int64_t>> ids;
    Mat weights;
  };
  Routes route(const std::string& prefix, int64_t layer_idx, const Mat& x,
               std::span<const int32_t> tokens) {
    const int64_t k = c_.num_experts_per_tok, n = c_.n_routed_experts;
    const Mat z = linear("gate", x, prefix + "gate.weight", true);
    const bool hash = layers_[layer_idx].ffn == formats::FfnKind::hash;
    const double* bias = hash ? nullptr : vector(prefix + "gate.bias");
    const std::vector<int32_t>& table = hash ? expert_ids(prefix + "gate.tid2eid") : no_ids_;
    Routes routes;
    Bounded weights = bounded(x.rows, k);
    for (int64_t t = 0; t < x.rows && status_.ok(); ++t) {
      std::vector<double> a(static_cast<size_t>(n)), lo(a.size()), hi(a.size());
      for (int64_t e = 0; e < n; ++e) {
        const double v = z.row(t)[e];
        a[e] = std::sqrt(v > 20.0 ? v : std::log1p(std::exp(v)));
      }
      std::vector<int64_t> order(a.size());
      std::iota(order.begin(), order.end(), 0);
      if (hash) {
        for (int64_t i = 0; i < k; ++i) order[i] = table[tokens[t] * k + i];
        for (int64_t i = 0; i < k; ++i) lo[order[i]] = hi[order[i]] = 1.0;  // nothing to choose
      } else {
        std::vector<double> scores(a);
        for (int64_t e = 0; e < n; ++e) {
          scores[e] += bias[e];
          const double bound = 2 * kFunction * a[e] + kUnit * std::fabs(scores[e]);
          lo[e] = scores[e] - bound;
          hi[e] = scores[e] + bound;
        }
        std::stable_sort(order.begin(), order.end(),
                         [&](int64_t p, int64_t q) { return scores[p] > scores[q]; });
        result_->router[layer_idx].push_back(choice(scores, order, k));
      }
      order.resize(static_cast<size_t>(k));
      std::sort(order.begin(), order.end());
      if (observer_ != nullptr) observer_->on_choice("routing", t, lo, hi, order);
      double sum = 0.0;
      for (const int64_t e : order) sum += a[e];
      for (int64_t i = 0; i < k; ++i) {
        const double value = a[order[i]] / sum * c_.routed_scaling_factor;
        weights.value.row(t)[i] = value;
        if (observer_ != nullptr)
          weights.bound.row(t)[i] = value * (4 * kFunction + static_cast<double>(k + 2) * kUnit);
      }
      routes.ids.push_back(std::move(order));
    }
    result_->experts[layer_idx] = routes.ids;
    routes.weights = settle("routing.weights", std::move(weights), false);
    return routes;
  }

  // Adds the routed experts' rows to out.value, and their magnitudes to out.bound.
  void add_routed(const std::string& prefix, int64_t layer_idx, const Mat& x,
                  std::span<const int32_t> tokens, Bounded& out) {
    const int64_t k = c_.num_experts_per_tok;
    const Routes routes = route(prefix, layer_idx, x, tokens);
    if (!status_.ok()) return;
    Mat rows(x.rows * k, x.columns);
    std::vector<double> weights;
    std::vector<int64_t> tokens_of_rows;
    std::vector<ExpertRows> groups;
    for (int64_t e = 0; e < c_.n_routed_experts; ++e) {
      const auto first = static_cast<int64_t>(weights.size());
      for (int64_t t = 0; t < x.rows; ++t) {
        for (int64_t i = 0; i < k; ++i) {
          if (routes.ids[t][i] != e) continue;
          std::copy_n(x.row(t), x.columns, rows.row(static_cast<int64_t>(weights.size())));
          weights.push_back(routes.weights.row(t)[i]);
          tokens_of_rows.push_back(t);
        }
      }
      const int64_t count = static_cast<int64_t>(weights.size()) - first;
      if (count > 0) groups.push_back({fmt::format("{}experts.{}.", prefix, e), first, count});
    }
    const Mat y = experts("experts", groups, rows, weights.data(), tokens_of_rows);
    for (int64_t i = 0; i < y.rows; ++i) {
      for (int64_t j = 0; j < c_.hidden_size; ++j) {
        out.value.row(tokens_of_rows[i])[j] += y.row(i)[j];
        if (observer_ != nullptr) out.bound.row(tokens_of_rows[i])[j] += std::fabs(y.row(i)[j]);
      }
    }
  }

  Mat head(const std::string& hyper, const std::string& norm, const Mat& streams) {
    Mat u = streams;
    if (num_streams() > 1) {
      u = mix_streams(streams, hyper_mixes(streams, hyper, formats::ResidualKind::mhc, true).pre);
    }
    return linear("logits", rms_norm("norm", u, norm), "head.weight", true);
  }

  // reference/forward 5.1: row p pairs the streams of p with token p + 1.
  std::vector<double> mtp(const Mat& streams) {
    const auto rows = static_cast<int64_t>(tokens_.size()) - 1;
    const int64_t d = c_.hidden_size, n = num_streams();
    const std::span<const int32_t> next = tokens_.subspan(1);
    const Mat& table = weight("embed.weight");
    Mat embedded(rows, d);
    for (int64_t t = 0; t < rows; ++t) std::copy_n(table.row(next[t]), d, embedded.row(t));
    const Mat e =
        linear("e_proj", rms_norm("enorm", embedded, "mtp.0.enorm.weight"), "mtp.0.e_proj.weight");
    Mat flat(rows * n, d);
    std::copy_n(streams.values.begin(), flat.values.size(), flat.values.begin());
    std::vector<int64_t> tokens;  // of the streams
    for (int64_t i = 0; i < rows * n; ++i) tokens.push_back(i / n);
    const Mat f = linear("h_proj", rms_norm("hnorm", flat, "mtp.0.hnorm.weight", tokens),
                         "mtp.0.h_proj.weight", false, tokens);
    Bounded x = bounded(rows, n * d);
    for (int64_t i = 0; i < rows * n; ++i) {
      for (int64_t j = 0; j < d; ++j) {
        x.value.values[i * d + j] = e.row(i / n)[j] + f.row(i)[j];
        if (observer_ != nullptr)
          x.bound.values[i * d + j] = kUnit * std::fabs(x.value.values[i * d + j]);
      }
    }
    Mat merged = settle("mtp.streams", std::move(x), true);
    run_layer("mtp.0.", c_.num_hidden_layers, merged, next);
    return head("mtp.0.hc_head", "mtp.0.norm.weight", merged).values;
  }

  Reference64Observer* observer_;
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
