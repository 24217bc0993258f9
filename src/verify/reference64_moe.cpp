#include "verify/reference64_moe.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace cachalot::verify {

Mat Moe64::experts(const std::string& op, const std::vector<ExpertRows>& groups, const Mat& x,
                   const double* weights, std::span<const int64_t> tokens) {
  auto product = [&](const char* suffix, const Mat& input, const char* name) {
    Bounded y = ops_.bounded(input.rows, ops_.weight(groups[0].prefix + name).rows);
    for (const ExpertRows& group : groups)
      ops_.multiply_rows(input, group.first_row, group.num_rows, group.prefix + name, y);
    return ops_.settle(op + suffix, std::move(y), true, tokens);
  };
  const Mat g = product(".gate", x, "w1.weight"), u = product(".up", x, "w3.weight");
  const double limit =
      c_.swiglu_limit > 0 ? c_.swiglu_limit : std::numeric_limits<double>::infinity();
  Bounded h = ops_.bounded(g.rows, g.columns);
  for (int64_t t = 0; t < g.rows; ++t) {
    for (int64_t i = 0; i < g.columns; ++i) {
      const double gate = std::min(g.row(t)[i], limit);
      const double up = std::clamp(u.row(t)[i], -limit, limit);
      const double activation = gate / (1.0 + std::exp(-gate)) * up;
      result_.max_expert_activation =
          std::max(result_.max_expert_activation, std::fabs(activation));
      const double value = activation * (weights != nullptr ? weights[t] : 1.0);
      h.value.row(t)[i] = value;
      if (ops_.is_observed()) h.bound.row(t)[i] = std::fabs(value) * (kFunction + 4 * kUnit);
    }
  }
  return product(".down", ops_.settle(op + ".hidden", std::move(h), true, tokens), "w2.weight");
}

Mat Moe64::ffn(const std::string& prefix, int64_t layer_idx, const Mat& x,
               std::span<const int32_t> tokens) {
  const bool dense = layers_[layer_idx].ffn == formats::FfnKind::dense;
  Bounded out = ops_.bounded(x.rows, c_.hidden_size);
  if (!dense) add_routed(prefix, layer_idx, x, tokens, out);
  const Mat shared =
      experts("shared", {{dense ? prefix : prefix + "shared_experts.", 0, x.rows}}, x, nullptr, {});
  if (dense) return shared;
  for (size_t i = 0; i < out.value.values.size(); ++i) {
    out.value.values[i] += shared.values[i];
    if (!ops_.is_observed()) continue;
    out.bound.values[i] = static_cast<double>(c_.num_experts_per_tok) * kUnit *
                          (out.bound.values[i] + std::fabs(shared.values[i]));
  }
  return ops_.settle("ffn", std::move(out), true);
}

Moe64::Routes Moe64::route(const std::string& prefix, int64_t layer_idx, const Mat& x,
                           std::span<const int32_t> tokens) {
  const int64_t k = c_.num_experts_per_tok, n = c_.n_routed_experts;
  const Mat z = ops_.linear("gate", x, prefix + "gate.weight", true);
  const bool hash = layers_[layer_idx].ffn == formats::FfnKind::hash;
  const double* bias = hash ? nullptr : ops_.vector(prefix + "gate.bias");
  const std::vector<int32_t>& table = hash ? ops_.expert_ids(prefix + "gate.tid2eid") : no_ids_;
  Routes routes;
  Bounded weights = ops_.bounded(x.rows, k);
  for (int64_t t = 0; t < x.rows && ops_.status().ok(); ++t) {
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
      result_.router[layer_idx].push_back(choice_of(scores, order, k));
    }
    order.resize(static_cast<size_t>(k));
    std::sort(order.begin(), order.end());
    if (ops_.is_observed()) ops_.observer()->on_choice("routing", t, lo, hi, order);
    double sum = 0.0;
    for (const int64_t e : order) sum += a[e];
    for (int64_t i = 0; i < k; ++i) {
      const double value = a[order[i]] / sum * c_.routed_scaling_factor;
      weights.value.row(t)[i] = value;
      if (ops_.is_observed())
        weights.bound.row(t)[i] = value * (4 * kFunction + static_cast<double>(k + 2) * kUnit);
    }
    routes.ids.push_back(std::move(order));
  }
  result_.experts[layer_idx] = routes.ids;
  routes.weights = ops_.settle("routing.weights", std::move(weights), false);
  return routes;
}

void Moe64::add_routed(const std::string& prefix, int64_t layer_idx, const Mat& x,
                       std::span<const int32_t> tokens, Bounded& out) {
  const int64_t k = c_.num_experts_per_tok;
  const Routes routes = route(prefix, layer_idx, x, tokens);
  if (!ops_.status().ok()) return;
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
      if (ops_.is_observed()) out.bound.row(tokens_of_rows[i])[j] += std::fabs(y.row(i)[j]);
    }
  }
}

}  // namespace cachalot::verify
