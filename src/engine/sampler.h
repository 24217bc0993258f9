// From a row of logits to a token.
//
// The order of operations, on the logits as float64:
//   1 bias         l[id] += logit_bias[id]
//   2 penalties    id seen in prompt or output:
//                  l = l > 0 ? l / repetition_penalty : l * repetition_penalty; then
//                  l -= frequency_penalty * (times in the output)
//                       + presence_penalty * (1 if in the output)
//   3 temperature  w = exp((l - max l) / temperature); 0 is greedy: all weight to the largest l,
//                  ties to the lowest id
//   4 top_k        the k largest l; ties to the lowest id
//   5 top_p        of what is left, largest first (ties to the lowest id), the shortest run whose
//                  share reaches top_p
//   6 min_p        of what is left, w >= min_p * max w
//   7 draw         the first id, ascending, at which the sum of probabilities exceeds a uniform
//                  number
// Numerics  float64; sums run over ascending ids (in 5 over descending weight); exp is our own. The
//           result is a pure function of the arguments: the same on every machine, in any batch.
//           Weights below e^-693 of the largest count as 0.
// Special   a logit of -inf is never chosen; NaN, +inf or no finite logit at all are errors, for
//           they are faults of the model.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/rng.h"
#include "base/status.h"

namespace cachalot::engine {

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

// invalid_argument names the field, its range and the value. Every function below expects valid
// parameters.
Status validate(const SamplingParams& params, int64_t vocab_size);

// How often each token occurred: what the penalties look at.
class TokenHistory {
 public:
  struct Counts {
    int32_t prompt = 0;
    int32_t output = 0;
  };
  void add_prompt(int32_t id) { ++counts_[id].prompt; }
  void add_output(int32_t id) { ++counts_[id].output; }
  const std::unordered_map<int32_t, Counts>& counts() const { return counts_; }

 private:
  std::unordered_map<int32_t, Counts> counts_;
};

struct TokenProbability {
  int32_t id;
  double probability;
};
// Ids ascending, probabilities positive with sum 1. The tokens that can be drawn.
using Distribution = std::vector<TokenProbability>;

// Steps 1 to 6. logits [vocab_size]; out is overwritten, its memory reused.
Status distribution(std::span<const float> logits, const SamplingParams& params,
                    const TokenHistory& history, Distribution& out);

struct SampledToken {
  int32_t id;
  double logprob;  // natural log of its probability in the distribution it was drawn from
};

// Step 7. One number of the stream.
SampledToken draw(const Distribution& distribution, RngStream& stream);

// The random numbers with which the token at `position` of a sequence is drawn.
inline RngStream sampling_stream(uint64_t seed, int64_t position) {
  return {seed, RngPurpose::sampling, static_cast<uint64_t>(position)};
}

// All steps for the token at `position`. scratch: as out of distribution(), and left as that leaves
// it.
Result<SampledToken> sample(std::span<const float> logits, const SamplingParams& params,
                            const TokenHistory& history, int64_t position, Distribution& scratch);

// log softmax(logits)[id]: what the model itself gives a token, before steps 1 to 6.
Result<double> model_logprob(std::span<const float> logits, int32_t id);

// exp(x) for x <= 0 (or -inf) with the same bits on every machine; within 2 units in the last
// place, 0 below -693.
double exp_nonpositive(double x);

}  // namespace cachalot::engine
