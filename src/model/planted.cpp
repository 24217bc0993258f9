#include "model/planted.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/faults.h"
#include "numeric/formats.h"

namespace cachalot::model {

namespace {

struct Square {  // one row's comb matrix
  float* values;
  int64_t n;
  float& at(int64_t j, int64_t k) const { return values[j * n + k]; }
};

void normalise_rows(Square c, float eps) {
  for (int64_t j = 0; j < c.n; ++j) {
    float sum = eps;
    for (int64_t k = 0; k < c.n; ++k) sum += c.at(j, k);
    for (int64_t k = 0; k < c.n; ++k) c.at(j, k) /= sum;
  }
}

void normalise_columns(Square c, float eps) {
  for (int64_t k = 0; k < c.n; ++k) {
    float sum = eps;
    for (int64_t j = 0; j < c.n; ++j) sum += c.at(j, k);
    for (int64_t j = 0; j < c.n; ++j) c.at(j, k) /= sum;
  }
}

// The comb logits again, from the mixes.
void comb_logits(const ops::HyperSplitParams& p, int64_t row, Square c) {
  const int64_t width = 2 * p.n + p.n * p.n;
  for (int64_t i = 0; i < p.n * p.n; ++i) {
    const int64_t m = 2 * p.n + i;
    c.values[i] = p.mixes[row * width + m] * p.inv_rms[row] * p.scale[2] + p.base[m];
  }
}

void sinkhorn(const ops::HyperSplitParams& p, int64_t row, Square c, bool columns_first,
              bool epsilon_in_sum) {
  comb_logits(p, row, c);
  for (int64_t j = 0; j < p.n; ++j) {
    float* line = c.values + j * p.n;
    const float top = *std::max_element(line, line + p.n);
    for (int64_t k = 0; k < p.n; ++k) line[k] = std::exp(line[k] - top);
  }
  if (columns_first) {
    for (int64_t i = 0; i < p.sinkhorn_iters; ++i) {
      normalise_columns(c, p.hc_eps);
      normalise_rows(c, p.hc_eps);
    }
    return;
  }
  // The first row pass is a softmax: eps belongs to the quotient; planted, it goes into the sum.
  normalise_rows(c, epsilon_in_sum ? p.hc_eps : 0.0f);
  for (int64_t i = 0; i < p.sinkhorn_iters; ++i) {
    if (i > 0) normalise_rows(c, p.hc_eps);
    normalise_columns(c, p.hc_eps);
  }
}

}  // namespace

BentWeight::BentWeight(const tensor::QuantTensor& stored) : tensor_(stored) {
  if (!stored.is_fp4()) return;
  const std::span<const std::byte> codes = stored.weight.bytes();
  if (fault(Fault::fp4_nibbles_swapped)) {
    for (const std::byte code : codes) bytes_.push_back((code >> 4) | (code << 4));
    tensor_.weight.data = bytes_.data();
  }
  if (fault(Fault::fp4_read_as_fp8)) {
    // Each byte as one e4m3 value in place of two e2m1 values.
    for (const std::byte code : codes) {
      values_.push_back(numeric::float_from_e4m3(static_cast<uint8_t>(code) & 0x7E));
      values_.push_back(values_.back());
    }
    tensor_.weight = {tensor::DType::f32,
                      {stored.rows, stored.columns},
                      reinterpret_cast<const std::byte*>(values_.data())};
    tensor_.scale = {};
  }
}

void bend_hyper_split(const ops::HyperSplitParams& p) {
  for (int64_t row = 0; row < p.rows; ++row) {
    const Square c{p.comb + row * p.n * p.n, p.n};
    if (fault(Fault::comb_not_transposed)) {
      for (int64_t j = 0; j < p.n; ++j) {
        for (int64_t k = 0; k < j; ++k) std::swap(c.at(j, k), c.at(k, j));
      }
    }
    if (fault(Fault::post_without_factor_two)) {
      for (int64_t k = 0; k < p.n; ++k) p.post[row * p.n + k] *= 0.5f;
    }
    if (fault(Fault::epsilon_in_softmax_sum)) sinkhorn(p, row, c, false, true);
    if (fault(Fault::sinkhorn_columns_first)) sinkhorn(p, row, c, true, false);
    if (fault(Fault::hyper_mapping_in_bf16)) {
      auto round = [](float* values, int64_t count) {
        for (int64_t i = 0; i < count; ++i) values[i] = numeric::round_to_bf16(values[i]);
      };
      round(p.pre + row * p.n, p.n);
      round(p.post + row * p.n, p.n);
      round(c.values, p.n * p.n);
    }
  }
}

void bend_routing(const Step& step, const FfnWeights& weights, Matrix logits, const int32_t* ids,
                  float* expert_weights) {
  const int64_t k = step.config.num_experts_per_tok;
  const auto scaling = static_cast<float>(step.config.routed_scaling_factor);
  for (int64_t row = 0; row < step.rows; ++row) {
    float* w = expert_weights + row * k;
    std::vector<float> scores(static_cast<size_t>(k));
    float sum = 0.0f;
    for (int64_t i = 0; i < k; ++i) {
      const int32_t id = ids[row * k + i];
      const float z = logits.data[row * logits.stride + id];
      scores[i] = std::sqrt(z > 20.0f ? z : std::log1p(std::exp(z)));
      if (fault(Fault::bias_in_routing_weights) && !weights.bias.empty())
        scores[i] += weights.bias[id];
      sum += scores[i];
    }
    for (int64_t i = 0; i < k; ++i) {
      if (fault(Fault::bias_in_routing_weights)) w[i] = scores[i] / sum * scaling;
      if (fault(Fault::routing_scale_applied_twice)) w[i] *= scaling;
      if (fault(Fault::routing_weights_not_normalised)) w[i] = scores[i] * scaling;
    }
  }
}

void bend_rope_table(ops::RopeTable table, int64_t n) {
  if (!fault(Fault::yarn_magnitude_applied)) return;
  const float magnitude = static_cast<float>(0.1 * std::log(16.0) + 1.0);
  for (int64_t i = 0; i < n; ++i) {
    const_cast<float*>(table.cos)[i] *= magnitude;
    const_cast<float*>(table.sin)[i] *= magnitude;
  }
}

}  // namespace cachalot::model
