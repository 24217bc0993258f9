#include "engine/sampling_params.h"

#include <fmt/format.h>

#include <limits>

namespace cachalot::engine {
namespace {
constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Far outside what anyone uses; keeps every adjusted logit finite.
constexpr double kMaxAdjustment = 1e6;

Status out_of_range(const char* field, const char* range, double found) {
  return invalid_argument(fmt::format("{}: expected {}, found {}", field, range, found));
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

RequestSampling::RequestSampling(const SamplingParams& params, int64_t vocab_size) {
  row_.temperature = params.temperature;
  row_.top_k = params.top_k;
  row_.top_p = params.top_p;
  row_.min_p = params.min_p;
  row_.repetition_penalty = params.repetition_penalty;
  row_.frequency_penalty = params.frequency_penalty;
  row_.presence_penalty = params.presence_penalty;
  row_.seed = params.seed;
  for (const auto& [id, bias] : params.logit_bias) biases_.push_back({id, bias});
  if (params.repetition_penalty == 1.0 && params.frequency_penalty == 0.0 &&
      params.presence_penalty == 0.0)
    return;
  place_.assign(static_cast<size_t>(vocab_size), -1);
  counts_.reserve(static_cast<size_t>(vocab_size));
}

void RequestSampling::count(int32_t id, int32_t ops::TokenCount::*times) {
  if (place_.empty()) return;
  int32_t& place = place_[id];
  if (place < 0) {
    place = static_cast<int32_t>(counts_.size());
    counts_.push_back({id, 0, 0});
  }
  ++(counts_[place].*times);
}

ops::SamplingRow RequestSampling::row(int64_t position) const {
  ops::SamplingRow row = row_;
  row.biases = biases_;
  row.counts = counts_;
  row.position = position;
  return row;
}

Status sampled_status(const ops::SampledToken& token, const float* logits) {
  switch (token.fault) {
    case ops::SamplingFault::none: return {};
    case ops::SamplingFault::not_finite:
      return invalid_argument(fmt::format("logit {}: expected a finite number or -inf, found {}",
                                          token.faulty_id, logits[token.faulty_id]));
    case ops::SamplingFault::nothing_to_choose: break;
  }
  return invalid_argument(
      "logits: expected a finite one of a token that is allowed, found only -inf");
}

}  // namespace cachalot::engine
