#include "verify/reference64_ops.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "numeric/formats.h"

namespace cachalot::verify {
namespace {

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

}  // namespace

double bf16(double x) { return numeric::round_to_bf16(static_cast<float>(x)); }

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

Choice choice_of(const std::vector<double>& scores, const std::vector<int64_t>& order,
                 int64_t kept) {
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

void multiply(const double* x, const Mat& w, int64_t first_row, int64_t num_rows, double* y,
              double* bound) {
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

std::vector<int64_t> positions(int64_t count, int64_t step) {
  std::vector<int64_t> out(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) out[i] = i * step;
  return out;
}

Mat Ops64::settle(std::string_view name, Bounded y, bool rounds, std::span<const int64_t> tokens) {
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

const Mat& Ops64::weight(const std::string& name, bool vector) {
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

const Mat& Ops64::fail(const Status& status, Mat& out) {
  if (status_.ok()) status_ = status;
  out = Mat(1, 1);
  return out;
}

const std::vector<int32_t>& Ops64::expert_ids(const std::string& name) {
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

void Ops64::multiply_rows(const Mat& x, int64_t first_row, int64_t num_rows,
                          const std::string& name, Bounded& y) {
  const Mat& w = weight(name);
  if (!status_.ok()) return;
  const bool quantised = std::find(quantised_.begin(), quantised_.end(), name) != quantised_.end();
  std::vector<double> input(static_cast<size_t>(x.columns));
  for (int64_t t = first_row; t < first_row + num_rows; ++t) {
    std::copy_n(x.row(t), x.columns, input.begin());
    if (official_ && quantised) snap_fp8(input.data(), x.columns, 128);
    multiply(input.data(), w, 0, w.rows, y.value.row(t),
             observer_ != nullptr ? y.bound.row(t) : nullptr);
  }
}

Mat Ops64::linear(std::string_view op, const Mat& x, const std::string& name, bool keep_f32,
                  std::span<const int64_t> tokens) {
  Bounded y = bounded(x.rows, weight(name).rows);
  multiply_rows(x, 0, x.rows, name, y);
  return settle(op, std::move(y), !keep_f32, tokens);
}

Mat Ops64::rms_norm(std::string_view op, const Mat& x, const std::string& name,
                    std::span<const int64_t> tokens) {
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

Mat Ops64::rotate(std::string_view op, Mat x, int64_t heads, std::span<const int64_t> positions,
                  bool compressed, bool inverse, std::span<const int64_t> tokens) {
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

std::vector<float> Ops64::rope_frequencies(bool compressed) const {
  const int64_t dim = c_.qk_rope_head_dim;
  const double theta = compressed ? c_.compress_rope_theta : c_.rope_theta;
  const auto& yarn = c_.rope_scaling;
  auto corr = [&](double b) {
    return static_cast<double>(dim) *
           std::log(static_cast<double>(yarn.original_max_position_embeddings) / (b * 2.0 * M_PI)) /
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

}  // namespace cachalot::verify
