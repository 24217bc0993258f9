// Sorts as little as it can, in the row's own scratch.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/sampling/exp_nonpositive.h"
#include "ops/sampling/sampling_impl.h"

namespace cachalot::ops {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Ids that may still be drawn; what `weight` holds goes from logit to weight.
using Candidates = std::span<TokenWeight>;

// Largest first, ties to the lowest id: a total order.
bool ranks_before(const TokenWeight& a, const TokenWeight& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
}
bool has_lower_id(const TokenWeight& a, const TokenWeight& b) { return a.id < b.id; }

// Keeps what `stays` says, in order.
template <typename Stays>
Candidates filter(Candidates candidates, Stays stays) {
  const auto end = std::remove_if(candidates.begin(), candidates.end(),
                                  [&](const TokenWeight& token) { return !stays(token); });
  return candidates.first(static_cast<size_t>(end - candidates.begin()));
}

// The first id whose logit is NaN or +inf; vocab_size where there is none.
int64_t read_logits(const SampleRow& row) {
  const auto is_refused = [](float logit) {
    return !(logit < std::numeric_limits<float>::infinity());
  };
  // Without a branch in each turn.
  int32_t refused = 0;
  for (int64_t i = 0; i < row.vocab_size; ++i) {
    refused |= is_refused(row.logits[i]) ? 1 : 0;
    row.distribution[i] = {static_cast<int32_t>(i), row.logits[i]};
  }
  if (refused == 0) return row.vocab_size;
  return std::find_if(row.logits, row.logits + row.vocab_size, is_refused) - row.logits;
}

bool is_plain_greedy(const SamplingRow& params) {
  return params.temperature == 0 && params.biases.empty() && params.mask == nullptr &&
         params.repetition_penalty == 1.0 && params.frequency_penalty == 0.0 &&
         params.presence_penalty == 0.0;
}

// The largest of n logits, all below +inf; else +inf. Sixteen maxima side by side, of which
// compilers make vectors.
float largest_of(const float* logits, int64_t n) {
  constexpr int64_t kLanes = 16;
  constexpr float kInf = std::numeric_limits<float>::infinity();
  float largest[kLanes];
  int32_t refused[kLanes] = {};
  std::fill_n(largest, kLanes, -kInf);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float logit = logits[i + lane];
      refused[lane] |= logit < kInf ? 0 : 1;
      largest[lane] = logit > largest[lane] ? logit : largest[lane];
    }
  }
  for (; i < n; ++i) {
    refused[0] |= logits[i] < kInf ? 0 : 1;
    largest[0] = std::max(largest[0], logits[i]);
  }
  if (std::any_of(refused, refused + kLanes, [](int32_t r) { return r != 0; })) return kInf;
  return *std::max_element(largest, largest + kLanes);
}

// The first of the largest logits, where all are below +inf and one is above -inf; else -1. It is
// looked for in its run of ids alone.
int64_t first_largest(const float* logits, int64_t n) {
  constexpr int64_t kRunIds = 256;
  constexpr float kInf = std::numeric_limits<float>::infinity();
  float best = -kInf;
  int64_t run = -1;
  for (int64_t i = 0; i < n; i += kRunIds) {
    const float largest = largest_of(logits + i, std::min(kRunIds, n - i));
    if (largest == kInf) return -1;
    if (largest > best) {
      best = largest;
      run = i;
    }
  }
  return run < 0 ? -1 : std::find(logits + run, logits + n, best) - logits;
}

void penalise(const SamplingRow& params, const TokenCount& count, Candidates tokens) {
  if (count.id < 0 || static_cast<size_t>(count.id) >= tokens.size()) return;
  double& logit = tokens[count.id].weight;
  if (count.prompt + count.output > 0)
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  if (count.output > 0) logit -= params.frequency_penalty * count.output + params.presence_penalty;
}

// Steps 1 to 3; tokens[id] is still the entry of id.
void adjust(const SamplingRow& params, Candidates tokens) {
  for (const TokenBias& bias : params.biases) tokens[bias.id].weight += bias.bias;
  if (params.repetition_penalty != 1.0 || params.frequency_penalty != 0.0 ||
      params.presence_penalty != 0.0) {
    const auto drafted = params.drafted;
    const auto times = [&](int32_t id) {
      return static_cast<int32_t>(std::count(drafted.begin(), drafted.end(), id));
    };
    for (TokenCount count : params.counts) {
      count.output += times(count.id);
      penalise(params, count, tokens);
    }
    // Those that only the step's own tokens hold, each at its first place.
    for (size_t i = 0; i < drafted.size(); ++i) {
      const int32_t id = drafted[i];
      const bool is_first =
          std::find(drafted.begin(), drafted.begin() + i, id) == drafted.begin() + i;
      const bool is_counted = std::any_of(params.counts.begin(), params.counts.end(),
                                          [&](const TokenCount& count) { return count.id == id; });
      if (is_first && !is_counted) penalise(params, {id, 0, times(id)}, tokens);
    }
  }
  if (params.mask == nullptr) return;
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (!id_set_has(params.mask, static_cast<int64_t>(id))) tokens[id].weight = -kInfinity;
  }
}

Candidates keep_top_k(int32_t k, Candidates candidates) {
  const auto count = static_cast<size_t>(k);
  if (count == 0 || count >= candidates.size()) return candidates;
  std::nth_element(candidates.begin(), candidates.begin() + k, candidates.end(), ranks_before);
  std::sort(candidates.begin(), candidates.begin() + k, has_lower_id);
  return candidates.first(count);
}

double total_weight(Candidates weights) {
  RunSum sum;
  for (const TokenWeight& token : weights) sum.add(token.id, token.weight);
  return sum.total();
}

// Sorts a first part that grows until it holds enough weight: a peaked distribution is never sorted
// as a whole.
Candidates keep_top_p(double top_p, Candidates weights) {
  if (top_p >= 1.0) return weights;
  const double enough = top_p * total_weight(weights);
  const auto n = static_cast<int64_t>(weights.size());
  const auto first = weights.begin();
  double sum = 0;
  int64_t num_kept = 0;
  for (int64_t num_sorted = 0; sum < enough && num_kept < n;) {
    const int64_t end = std::min(n, std::max<int64_t>(256, 4 * num_sorted));
    if (end < n) std::nth_element(first + num_sorted, first + end, weights.end(), ranks_before);
    std::sort(first + num_sorted, first + end, ranks_before);
    num_sorted = end;
    while (num_kept < num_sorted && sum < enough)
      sum += weights[static_cast<size_t>(num_kept++)].weight;
  }
  std::sort(first, first + num_kept, has_lower_id);
  return weights.first(static_cast<size_t>(num_kept));
}

// Eight maxima side by side: each comparison of one waits for the one before it.
double largest_weight(Candidates tokens) {
  constexpr size_t kLanes = 8;
  double largest[kLanes];
  std::fill_n(largest, kLanes, -kInfinity);
  size_t i = 0;
  for (; i + kLanes <= tokens.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane)
      largest[lane] = std::max(largest[lane], tokens[i + lane].weight);
  }
  for (; i < tokens.size(); ++i) largest[0] = std::max(largest[0], tokens[i].weight);
  return *std::max_element(largest, largest + kLanes);
}

// exp_nonpositive of count numbers, eight side by side; use() gets each with its index, in order.
template <typename Exponent, typename Use>
void exp_of_each(size_t count, Exponent exponent, Use use) {
  constexpr size_t kLanes = 8;
  double values[kLanes] = {};
  for (size_t first = 0; first < count; first += kLanes) {
    const size_t lanes = std::min(kLanes, count - first);
    for (size_t lane = 0; lane < lanes; ++lane) values[lane] = exponent(first + lane);
    exp_nonpositive_of_eight(values);
    for (size_t lane = 0; lane < lanes; ++lane) use(first + lane, values[lane]);
  }
}

// Steps 4 to 7; empty where there is nothing to choose.
Candidates distribution(const SamplingRow& params, Candidates tokens) {
  const double largest = largest_weight(tokens);
  if (largest == -kInfinity) return {};
  if (params.temperature == 0) {
    // The first of equals: the lowest id.
    const auto best = std::find_if(tokens.begin(), tokens.end(), [&](const TokenWeight& token) {
      return token.weight == largest;
    });
    tokens[0] = {best->id, 1.0};
    return tokens.first(1);
  }
  const bool divides = params.temperature != 1.0;
  const auto exponent = [&](const TokenWeight& token) {
    const double below = token.weight - largest;
    return divides ? below / params.temperature : below;
  };
  // The largest have the largest weights: those without any may go first.
  tokens = filter(tokens, [&](const auto& token) { return exponent(token) >= kLeastExponent; });
  tokens = keep_top_k(params.top_k, tokens);
  exp_of_each(
      tokens.size(), [&](size_t i) { return exponent(tokens[i]); },
      [&](size_t i, double weight) { tokens[i].weight = weight; });
  tokens = keep_top_p(params.top_p, tokens);
  // The largest weight is 1 and passes every filter.
  if (params.min_p > 0)
    tokens = filter(tokens, [&](const auto& token) { return token.weight >= params.min_p; });
  return tokens;
}

// The first at which the sum of weights exceeds `bound`.
const TokenWeight& draw(Candidates tokens, double bound) {
  RunSum sum;
  for (const TokenWeight& token : tokens) {
    sum.add(token.id, token.weight);
    if (sum.total() > bound) return token;
  }
  return tokens.back();  // the bound was rounded up to the sum of all
}

// log softmax(logits)[i] = logits[i] - largest - log_total.
struct Softmax {
  double largest;
  double log_total;
  double logprob(float logit) const { return logit - largest - log_total; }
};

Softmax model_softmax(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  RunSum sum;
  exp_of_each(
      logits.size(), [&](size_t id) { return logits[id] - largest; },
      [&](size_t id, double value) { sum.add(static_cast<int64_t>(id), value); });
  return {largest, std::log(sum.total())};
}

void write_top(std::span<const float> logits, const Softmax& softmax, std::span<TokenLogprob> top) {
  // The best so far in order, with their logits; few, so that most ids are compared once.
  size_t num_found = 0;
  for (size_t id = 0; id < logits.size(); ++id) {
    const double logit = logits[id];
    if (num_found == top.size() && !(logit > top.back().logprob)) continue;
    num_found = std::min(num_found + 1, top.size());
    size_t place = num_found - 1;
    for (; place > 0 && logit > top[place - 1].logprob; --place) top[place] = top[place - 1];
    top[place] = {static_cast<int32_t>(id), logit};
  }
  for (TokenLogprob& token : top.first(num_found))
    token.logprob = softmax.logprob(logits[token.id]);
  std::fill(top.begin() + num_found, top.end(), TokenLogprob{-1, -kInfinity});
}

}  // namespace

SampledToken sample_row_cpu(const SampleRow& row) {
  SampledToken result;
  const std::span logits(row.logits, static_cast<size_t>(row.vocab_size));
  Candidates tokens(row.distribution, static_cast<size_t>(row.vocab_size));
  const int64_t greedy =
      is_plain_greedy(row.params) ? first_largest(row.logits, row.vocab_size) : -1;
  if (greedy >= 0) {
    tokens = tokens.first(1);
    tokens[0] = {static_cast<int32_t>(greedy), 1.0};
  } else if (const int64_t id = read_logits(row); id < row.vocab_size) {
    result.fault = SamplingFault::not_finite;
    result.faulty_id = static_cast<int32_t>(id);
    return result;
  } else {
    adjust(row.params, tokens);
    tokens = distribution(row.params, tokens);
  }
  if (tokens.empty()) {
    result.fault = SamplingFault::nothing_to_choose;
    return result;
  }
  const double total = total_weight(tokens);
  const double uniform = sampling_stream(row.params.seed, row.params.position).next_unit();
  const TokenWeight& chosen = draw(tokens, uniform * total);
  result.id = chosen.id;
  result.num_allowed = static_cast<int32_t>(tokens.size());
  result.logprob = std::log(chosen.weight / total);
  if (row.allowed != nullptr) {
    std::fill_n(row.allowed, id_set_words(row.vocab_size), 0);
    for (const TokenWeight& token : tokens)
      row.allowed[token.id / 64] |= uint64_t{1} << (token.id % 64);
  }
  if (!row.params.wants_model_logprob && row.params.num_top == 0) return result;
  const Softmax softmax = model_softmax(logits);
  if (row.params.wants_model_logprob) result.model_logprob = softmax.logprob(logits[chosen.id]);
  if (row.params.num_top > 0)
    write_top(logits, softmax, {row.top, static_cast<size_t>(row.params.num_top)});
  return result;
}

}  // namespace cachalot::ops
