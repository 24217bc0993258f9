// From logits to tokens: all rows of a step in one call.
//
// The order of operations on a row, its logits l as float64:
//   1 bias         l[id] += bias
//   2 penalties    id seen in prompt or output:
//                  l = l > 0 ? l / repetition_penalty : l * repetition_penalty; then
//                  l -= frequency_penalty * (times in the output)
//                       + presence_penalty * (1 if in the output)
//   3 mask         an id whose bit is clear is never chosen
//   4 temperature  w = exp((l - max l) / temperature); 0 is greedy: all weight to the largest l,
//                  ties to the lowest id
//   5 top_k        the k largest l; ties to the lowest id
//   6 top_p        of what is left, largest w first (ties to the lowest id), the shortest run whose
//                  share reaches top_p
//   7 min_p        of what is left, w >= min_p * max w
//   8 draw         the first id at which the sum of weights exceeds that of all times a uniform
//                  number, the first one of the stream (seed, position)
// Numerics  float64. A sum over ids adds the sums of runs of 512, all ascending; in 6 it is one run
//           of descending weights. exp is our own (exp_nonpositive.h). A row's result depends on
//           its logits and parameters alone: the same on any machine, in any batch, for any thread
//           count, on a GPU. Weights below e^-693 of the largest count as 0.
// Special   a logit of -inf is never chosen. NaN and +inf are faults of the model, and a row that
//           has no id to choose is one as well: its token says so, the other rows are as they are.
// Errors    CHECK: shapes. Parameters are expected in the ranges given. A GPU has the logits alone.
// Threads   concurrent calls need distinct ctx.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/rng.h"
#include "device/buffer.h"
#include "device/exec_context.h"

namespace cachalot::ops {

struct TokenBias {
  int32_t id;   // in [0, vocab_size)
  double bias;  // |bias| <= 1e6, or -inf, which bans the token
};

// How often a token occurred.
struct TokenCount {
  int32_t id;  // one outside [0, vocab_size) is left out
  int32_t prompt;
  int32_t output;
};

// A set of ids as bits: id's is bit id mod 64 of word id / 64.
inline int64_t id_set_words(int64_t vocab_size) { return (vocab_size + 63) / 64; }
inline bool id_set_has(const uint64_t* set, int64_t id) { return (set[id / 64] >> (id % 64)) & 1; }

struct SamplingRow {
  double temperature = 1.0;         // >= 0, finite
  int32_t top_k = 0;                // >= 0; 0: all
  double top_p = 1.0;               // in (0, 1]
  double min_p = 0.0;               // in [0, 1]
  double repetition_penalty = 1.0;  // in [1e-6, 1e6]
  double frequency_penalty = 0.0;   // in [-1e6, 1e6]
  double presence_penalty = 0.0;    // in [-1e6, 1e6]
  std::span<const TokenBias> biases = {};
  std::span<const TokenCount> counts = {};  // distinct ids
  // Ids of the step before this row's token, not in counts: they count as output.
  std::span<const int32_t> drafted = {};
  const uint64_t* mask = nullptr;  // [id_set_words(vocab_size)]; null: every id
  uint64_t seed = 0;
  int64_t position = 0;  // of the token in its sequence
  bool wants_model_logprob = false;
  int64_t num_top = 0;  // <= SampleParams::top_stride
};

enum class SamplingFault : int32_t { none, not_finite, nothing_to_choose };

struct SampledToken {
  int32_t id = -1;  // -1 of a faulty row, whose other values but the fault have no meaning
  SamplingFault fault = SamplingFault::none;
  int32_t faulty_id = -1;   // not_finite: the first id whose logit is NaN or +inf
  int32_t num_allowed = 0;  // ids that could have been drawn
  double logprob = 0;       // natural log of its probability among those
  // log softmax(logits)[id]: what the model itself gives the token, before all steps. 0 where the
  // row did not ask.
  double model_logprob = 0;
};

struct TokenLogprob {
  int32_t id;      // -1 past the end of a vocabulary of fewer ids
  double logprob;  // log softmax(logits)[id]
};

struct SampleParams {
  const float* logits;  // [rows, vocab_size] with a stride
  int64_t logits_stride;
  int64_t rows;
  int64_t vocab_size;
  const SamplingRow* params;  // [rows]
  SampledToken* tokens;       // [rows]
  // The num_top ids of the largest logits, largest first, ties to the lowest id: the first num_top
  // places of the row in [rows, top_stride].
  TokenLogprob* top = nullptr;
  int64_t top_stride = 0;
  // Not null: the ids that could have been drawn, [rows, id_set_words(vocab_size)].
  uint64_t* allowed = nullptr;
};

void sample(device::ExecContext& ctx, const SampleParams& p);

// Ids that the host need not know: to [count] = from, both in the context's memory.
void copy_ids(device::ExecContext& ctx, const int32_t* from, int64_t count, int32_t* to);

// sample() in two parts, between which ops may read the ids; on a GPU the host waits in the second
// part alone. p: up to kMaxRows rows, neither num_top nor allowed.
// Threads one owner, who finishes what he has started before he starts again.
class Drawing {
 public:
  static constexpr int64_t kMaxRows = 64;

  void start(device::ExecContext& ctx, const SampleParams& p);  // writes no tokens
  // One a row, in the context's memory; of a faulty row 0.
  const int32_t* ids() const;
  void finish(device::ExecContext& ctx, std::span<SampledToken> tokens);

 private:
  std::vector<SampledToken> tokens_;
  std::vector<int32_t> ids_;
  std::vector<char> wants_model_logprob_;
  device::Buffer there_, here_;  // a GPU's rows, and their copy on the host
};

// The random numbers with which the token at `position` of a sequence is drawn.
inline RngStream sampling_stream(uint64_t seed, int64_t position) {
  return {seed, RngPurpose::sampling, static_cast<uint64_t>(position)};
}

}  // namespace cachalot::ops
