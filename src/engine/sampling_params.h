// How a request asks for its tokens, and the row of ops::sample that it comes to.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/status.h"
#include "ops/sampling/sampling.h"

namespace cachalot::engine {

// What each does: ops/sampling/sampling.h.
struct SamplingParams {
  double temperature = 1.0;  // >= 0
  int32_t top_k = 0;         // >= 0; 0: all
  double top_p = 1.0;        // in (0, 1]
  double min_p = 0.0;        // in [0, 1]
  double repetition_penalty = 1.0;
  double frequency_penalty = 0.0;
  double presence_penalty = 0.0;
  std::map<int32_t, double> logit_bias = {};  // -inf bans a token
  uint64_t seed = 0;
};

// invalid_argument names the field, its range and the value.
Status validate(const SamplingParams& params, int64_t vocab_size);

// The sampling of one request: valid parameters, and how often each token occurred. Owns the arrays
// that its rows point to. Movable and copyable (a fork's counts go on from its parent's).
class RequestSampling {
 public:
  RequestSampling(const SamplingParams& params, int64_t vocab_size);

  // Ids in [0, vocab_size). Does not allocate.
  void add_prompt(int32_t id) { count(id, &ops::TokenCount::prompt); }
  void add_output(int32_t id) { count(id, &ops::TokenCount::output); }

  // For the token at `position`; valid until the next call of another member.
  ops::SamplingRow row(int64_t position) const;

 private:
  void count(int32_t id, int32_t ops::TokenCount::*times);

  ops::SamplingRow row_;  // without its spans
  std::vector<ops::TokenBias> biases_;
  // Kept where a penalty looks at them.
  std::vector<ops::TokenCount> counts_;
  std::vector<int32_t> place_;  // by id, in counts_; -1: none
};

// What is wrong with a faulty row's logits. logits: the row's.
Status sampled_status(const ops::SampledToken& token, const float* logits);

}  // namespace cachalot::engine
