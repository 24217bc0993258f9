// The definition, step by step, on full arrays.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/sampling/exp_nonpositive.h"
#include "ops/sampling/sampling_impl.h"

namespace cachalot::ops {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What the token's counts come to with the step's own tokens.
TokenCount count_of(const SamplingRow& params, int32_t id) {
  TokenCount found{id, 0, 0};
  for (const TokenCount& count : params.counts) {
    if (count.id == id) found = count;
  }
  found.output +=
      static_cast<int32_t>(std::count(params.drafted.begin(), params.drafted.end(), id));
  return found;
}

// Steps 1 to 3.
std::vector<double> adjusted(const SampleRow& row) {
  const SamplingRow& params = row.params;
  std::vector<double> l(row.logits, row.logits + row.vocab_size);
  for (const TokenBias& bias : params.biases) l[bias.id] += bias.bias;
  for (int32_t id = 0; id < row.vocab_size; ++id) {
    const TokenCount count = count_of(params, id);
    if (count.prompt + count.output > 0)
      l[id] = l[id] > 0 ? l[id] / params.repetition_penalty : l[id] * params.repetition_penalty;
    if (count.output > 0)
      l[id] -= params.frequency_penalty * count.output + params.presence_penalty;
    if (params.mask != nullptr && !id_set_has(params.mask, id)) l[id] = -kInfinity;
  }
  return l;
}

double sum_of(const std::vector<double>& values) {
  RunSum sum;
  for (size_t id = 0; id < values.size(); ++id) sum.add(static_cast<int64_t>(id), values[id]);
  return sum.total();
}

// Steps 4 to 7 as weights, 0 of an id that cannot be drawn. l has a finite one.
std::vector<double> kept_weights(const SamplingRow& params, const std::vector<double>& l) {
  std::vector<double> weights(l.size(), 0.0);
  std::vector<int32_t> order;
  for (size_t id = 0; id < l.size(); ++id) order.push_back(static_cast<int32_t>(id));
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return l[a] > l[b]; });
  if (params.temperature == 0) {
    weights[order[0]] = 1;
    return weights;
  }
  if (params.top_k > 0) order.resize(std::min<size_t>(order.size(), params.top_k));
  for (const int32_t id : order)
    weights[id] = exp_nonpositive((l[id] - l[order[0]]) / params.temperature);
  if (params.top_p < 1) {
    const double total = sum_of(weights);
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return weights[a] != weights[b] ? weights[a] > weights[b] : a < b;
    });
    double sum = 0;
    for (const int32_t id : order) {
      const double weight = weights[id];
      if (!(sum < params.top_p * total)) weights[id] = 0;
      sum += weight;
    }
  }
  // The largest weight is 1.
  for (double& weight : weights) {
    if (weight < params.min_p) weight = 0;
  }
  return weights;
}

double model_logprob(const SampleRow& row, int64_t id) {
  const double largest = *std::max_element(row.logits, row.logits + row.vocab_size);
  std::vector<double> weights;
  for (int64_t i = 0; i < row.vocab_size; ++i)
    weights.push_back(exp_nonpositive(row.logits[i] - largest));
  return row.logits[id] - largest - std::log(sum_of(weights));
}

void write_top(const SampleRow& row) {
  std::vector<int32_t> order;
  for (int32_t id = 0; id < row.vocab_size; ++id) order.push_back(id);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return row.logits[a] > row.logits[b]; });
  for (int64_t i = 0; i < row.params.num_top; ++i) {
    const bool exists = i < row.vocab_size;
    row.top[i] = exists ? TokenLogprob{order[i], model_logprob(row, order[i])}
                        : TokenLogprob{-1, -kInfinity};
  }
}

}  // namespace

SampledToken sample_row_ref(const SampleRow& row) {
  SampledToken result;
  for (int32_t id = 0; id < row.vocab_size; ++id) {
    if (row.logits[id] < std::numeric_limits<float>::infinity()) continue;
    result.fault = SamplingFault::not_finite;
    result.faulty_id = id;
    return result;
  }
  const std::vector<double> l = adjusted(row);
  if (std::count(l.begin(), l.end(), -kInfinity) == row.vocab_size) {
    result.fault = SamplingFault::nothing_to_choose;
    return result;
  }
  const std::vector<double> weights = kept_weights(row.params, l);
  const double total = sum_of(weights);
  if (row.allowed != nullptr) std::fill_n(row.allowed, id_set_words(row.vocab_size), 0);
  for (int32_t id = 0; id < row.vocab_size; ++id) {
    if (weights[id] == 0) continue;
    row.distribution[result.num_allowed++] = {id, weights[id]};
    if (row.allowed != nullptr) row.allowed[id / 64] |= uint64_t{1} << (id % 64);
  }
  const double uniform = sampling_stream(row.params.seed, row.params.position).next_unit();
  RunSum sum;
  for (int32_t i = 0; i < result.num_allowed; ++i) {
    const TokenWeight& token = row.distribution[i];
    result.id = token.id;
    result.logprob = std::log(token.weight / total);
    sum.add(token.id, token.weight);
    if (sum.total() > uniform * total) break;
  }
  if (row.params.wants_model_logprob) result.model_logprob = model_logprob(row, result.id);
  write_top(row);
  return result;
}

}  // namespace cachalot::ops
