#include "engine/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace cachalot::engine {
namespace {
constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Far outside what anyone uses; keeps every adjusted logit finite.
constexpr double kMaxAdjustment = 1e6;

Status out_of_range(const char* field, const char* range, double found) {
  return invalid_argument(fmt::format("{}: expected {}, found {}", field, range, found));
}

// Largest first, ties to the lowest id: a total order.
bool ranks_before(const TokenProbability& a, const TokenProbability& b) {
  return a.probability != b.probability ? a.probability > b.probability : a.id < b.id;
}
bool has_lower_id(const TokenProbability& a, const TokenProbability& b) { return a.id < b.id; }

Status read_logits(std::span<const float> logits, Distribution& out) {
  out.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] < std::numeric_limits<float>::infinity())) {
      return invalid_argument(
          fmt::format("logit {}: expected a finite number or -inf, found {}", i, logits[i]));
    }
    out[i] = {static_cast<int32_t>(i), logits[i]};
  }
  return {};
}

// Steps 1 and 2; out[id] is still the entry of id.
void adjust(const SamplingParams& params, const TokenHistory& history, Distribution& out) {
  for (const auto& [id, bias] : params.logit_bias) out[id].probability += bias;
  if (params.repetition_penalty == 1.0 && params.frequency_penalty == 0.0 &&
      params.presence_penalty == 0.0)
    return;
  const int64_t vocab_size = static_cast<int64_t>(out.size());
  for (const auto& [id, counts] : history.counts()) {
    if (id < 0 || id >= vocab_size) continue;
    double& logit = out[id].probability;
    if (counts.prompt + counts.output > 0) {
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    }
    if (counts.output > 0)
      logit -= params.frequency_penalty * counts.output + params.presence_penalty;
  }
}

// max_element takes the first of equals: the lowest id.
const TokenProbability* best_token(const Distribution& logits) {
  const auto best =
      std::max_element(logits.begin(), logits.end(),
                       [](const auto& a, const auto& b) { return a.probability < b.probability; });
  return best == logits.end() || best->probability == -kInfinity ? nullptr : &*best;
}

void keep_top_k(int32_t k, Distribution& candidates) {
  if (k == 0 || static_cast<size_t>(k) >= candidates.size()) return;
  std::nth_element(candidates.begin(), candidates.begin() + k, candidates.end(), ranks_before);
  candidates.resize(static_cast<size_t>(k));
  std::sort(candidates.begin(), candidates.end(), has_lower_id);
}

double total_weight(const Distribution& weights) {
  double total = 0;
  for (const TokenProbability& token : weights) total += token.probability;
  return total;
}

// Sorts a first part that grows until it holds enough weight: a peaked distribution is never sorted
// as a whole.
void keep_top_p(double top_p, Distribution& weights) {
  if (top_p >= 1.0) return;
  const double enough = top_p * total_weight(weights);
  const int64_t n = static_cast<int64_t>(weights.size());
  const auto first = weights.begin();
  double sum = 0;
  int64_t num_kept = 0;
  for (int64_t num_sorted = 0; sum < enough && num_kept < n;) {
    const int64_t end = std::min(n, std::max<int64_t>(256, 4 * num_sorted));
    if (end < n) std::nth_element(first + num_sorted, first + end, weights.end(), ranks_before);
    std::sort(first + num_sorted, first + end, ranks_before);
    num_sorted = end;
    while (num_kept < num_sorted && sum < enough)
      sum += weights[static_cast<size_t>(num_kept++)].probability;
  }
  weights.resize(static_cast<size_t>(num_kept));
  std::sort(weights.begin(), weights.end(), has_lower_id);
}

}  // namespace

Status validate(const SamplingParams& params, int64_t vocab_size) {
  // Written so that NaN is out of range.
  const auto within = [](double value, double low, double high) {
    return value >= low && value <= high;
  };
  if (!(params.temperature >= 0 && params.temperature < kInfinity)) {
    return out_of_range("temperature", "a finite number of at least 0", params.temperature);
  }
  if (params.top_k < 0) return out_of_range("top_k", "at least 0", params.top_k);
  if (!(params.top_p > 0 && params.top_p <= 1))
    return out_of_range("top_p", "above 0 and at most 1", params.top_p);
  if (!within(params.min_p, 0, 1)) return out_of_range("min_p", "0 to 1", params.min_p);
  if (!within(params.repetition_penalty, 1 / kMaxAdjustment, kMaxAdjustment)) {
    return out_of_range("repetition_penalty", "1e-6 to 1e6", params.repetition_penalty);
  }
  if (!within(params.frequency_penalty, -kMaxAdjustment, kMaxAdjustment)) {
    return out_of_range("frequency_penalty", "-1e6 to 1e6", params.frequency_penalty);
  }
  if (!within(params.presence_penalty, -kMaxAdjustment, kMaxAdjustment)) {
    return out_of_range("presence_penalty", "-1e6 to 1e6", params.presence_penalty);
  }
  for (const auto& [id, bias] : params.logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return invalid_argument(
          fmt::format("logit_bias: expected token ids of 0 to {}, found {}", vocab_size - 1, id));
    }
    if (!within(bias, -kMaxAdjustment, kMaxAdjustment) && bias != -kInfinity) {
      return out_of_range(fmt::format("logit_bias of token {}", id).c_str(), "-1e6 to 1e6 or -inf",
                          bias);
    }
  }
  return {};
}

double exp_nonpositive(double x) {
  constexpr double kLog2e = 0x1.71547652b82fep+0;
  // ln 2 in two parts; products of the first with an integer up to 2^10 are exact.
  constexpr double kLn2High = 0x1.62e42fefap-1, kLn2Low = 0x1.cf79abc9e3b3ap-40;
  if (!(x >= -693.0)) return 0.0;                       // below 2^-999
  const double n = (x * kLog2e + 0x1.8p52) - 0x1.8p52;  // to the nearest integer
  const double r = (x - n * kLn2High) - n * kLn2Low;
  // Taylor series; |r| <= 0.347 leaves a remainder below 2^-58.
  double sum = 1.0 / 6227020800;
  for (const double factorial : {479001600.0, 39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0,
                                 720.0, 120.0, 24.0, 6.0, 2.0}) {
    sum = sum * r + 1.0 / factorial;
  }
  const double value = 1.0 + (r + r * r * sum);
  return value * std::bit_cast<double>(static_cast<uint64_t>(1023 + static_cast<int64_t>(n)) << 52);
}

Status distribution(std::span<const float> logits, const SamplingParams& params,
                    const TokenHistory& history, Distribution& out) {
  CACHALOT_RETURN_IF_ERROR(read_logits(logits, out));
  adjust(params, history, out);
  const TokenProbability* best = best_token(out);
  if (best == nullptr) return invalid_argument("logits: expected a finite one, found only -inf");
  const double largest = best->probability;
  if (params.temperature == 0) {
    out.assign(1, {best->id, 1.0});
    return {};
  }
  keep_top_k(params.top_k, out);
  for (TokenProbability& token : out) {
    token.probability = exp_nonpositive((token.probability - largest) / params.temperature);
  }
  std::erase_if(out, [](const TokenProbability& token) { return token.probability == 0; });
  keep_top_p(params.top_p, out);
  // The largest weight is 1 and passes every filter.
  if (params.min_p > 0) {
    std::erase_if(out,
                  [&](const TokenProbability& token) { return token.probability < params.min_p; });
  }
  const double total = total_weight(out);
  for (TokenProbability& token : out) token.probability /= total;
  return {};
}

SampledToken draw(const Distribution& distribution, RngStream& stream) {
  CACHALOT_CHECK(!distribution.empty());
  const double uniform = stream.next_unit();
  double sum = 0;
  const TokenProbability* chosen =
      &distribution.back();  // where rounding leaves the sum below uniform
  for (const TokenProbability& token : distribution) {
    sum += token.probability;
    if (sum > uniform) {
      chosen = &token;
      break;
    }
  }
  return {chosen->id, std::log(chosen->probability)};
}

Result<SampledToken> sample(std::span<const float> logits, const SamplingParams& params,
                            const TokenHistory& history, int64_t position, Distribution& scratch) {
  CACHALOT_RETURN_IF_ERROR(distribution(logits, params, history, scratch));
  RngStream stream = sampling_stream(params.seed, position);
  return draw(scratch, stream);
}

Result<double> model_logprob(std::span<const float> logits, int32_t id) {
  CACHALOT_CHECK(id >= 0 && static_cast<size_t>(id) < logits.size());
  double largest = -kInfinity;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] < std::numeric_limits<float>::infinity())) {
      return invalid_argument(
          fmt::format("logit {}: expected a finite number or -inf, found {}", i, logits[i]));
    }
    largest = std::max<double>(largest, logits[i]);
  }
  if (largest == -kInfinity)
    return invalid_argument("logits: expected a finite one, found only -inf");
  double total = 0;
  for (const float logit : logits) total += exp_nonpositive(logit - largest);
  return logits[id] - largest - std::log(total);
}

}  // namespace cachalot::engine
