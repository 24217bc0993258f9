// The whole forward pass in float64, plain loops, one sequence from position 0, nothing shared with
// ops/: an independent evaluation of reference/forward. At `official` it makes every rounding of
// the published code (bf16, FP8, FP4), so that what is left between it and any fp32 implementation
// is the order and width of sums.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "formats/config.h"
#include "model/weight_provider.h"

namespace cachalot::verify {

// A matrix of doubles.
struct Mat {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<double> values;
  Mat() = default;
  Mat(int64_t r, int64_t c) : rows(r), columns(c), values(static_cast<size_t>(r * c)) {}
  double* row(int64_t i) { return values.data() + i * columns; }
  const double* row(int64_t i) const { return values.data() + i * columns; }
};

// Sees every op of a pass at `official` as it is made, and may put what another implementation made
// of the same inputs in its place: then each op is compared alone, and no difference grows.
class Reference64Observer {
 public:
  // What fp32 evaluations of an op may give. lo and hi are roundings (bf16 where the op rounds) of
  // the float64 value less and plus a bound of what fp32 sums, products and functions leave.
  struct Op {
    std::string_view name;
    bool is_bf16;
    std::span<const int64_t> tokens;  // token of every row; empty: rows are tokens
    const Mat& lo;
    const Mat& hi;
  };
  virtual ~Reference64Observer() = default;
  // value: float64's own, rounded; later ops read what the call leaves in it.
  virtual void on_op(const Op& op, Mat& value) = 0;
  // A token's choice of taken.size() candidates, ties to the lowest; its score of each lies in
  // [lo, hi]. Later ops read what the call leaves in `taken`, ascending.
  virtual void on_choice(std::string_view name, int64_t token, std::span<const double> lo,
                         std::span<const double> hi, std::vector<int64_t>& taken) = 0;
};

struct Choice {
  double lowest;  // score of the last candidate taken
  // between the last candidate taken and the first left out; infinity where none is left out
  double gap;
  double spread;  // standard deviation of the candidates' scores
};

struct Reference64Result {
  std::vector<std::vector<double>> layer_streams;  // by layer: [rows, n * d]
  std::vector<double> logits;                      // [rows, vocab]
  // By layer, a row each: how close the choice was.
  // biased scores; nothing is left out in hash layers
  std::map<int64_t, std::vector<Choice>> router;
  std::map<int64_t, std::vector<Choice>> selection;  // indexer scores
  // by layer and row, of every visible entry
  std::map<int64_t, std::vector<std::vector<double>>> index_scores;
  // What was taken, by layer and row, ascending: experts (hash layers too) and compressed entries.
  std::map<int64_t, std::vector<std::vector<int64_t>>> experts, picks;
  // By CSA layer, a row each: the attention that each picked entry receives, summed over heads.
  std::map<int64_t, std::vector<std::vector<double>>> received;
  double max_attention_logit = 0;    // magnitude, of all heads and keys
  double max_expert_activation = 0;  // magnitude of silu(gate) * up, before the routing weight
  // MTP block 0 fed with the streams of rows 0 .. T-2 and the tokens after them: [rows - 1, vocab].
  // Empty without MTP.
  std::vector<double> mtp_logits;
};

// normed_queries false: without the norm of every head's query, for what it is there for
// (reference/training M9).
Result<Reference64Result> run_reference64(const formats::ModelConfig& config,
                                          const model::WeightProvider& source,
                                          std::span<const int32_t> tokens, bool official,
                                          bool normed_queries = true);

// One decoder layer alone at `official`, over the streams [tokens, n * d] that enter it from
// position 0.
Status observe_layer64(const formats::ModelConfig& config, const model::WeightProvider& source,
                       int64_t layer, std::span<const int32_t> tokens,
                       std::span<const float> streams, Reference64Observer& observer);
// MTP block 0 and its head over the streams of all tokens but the last: [tokens - 1, vocab].
Status observe_mtp64(const formats::ModelConfig& config, const model::WeightProvider& source,
                     std::span<const int32_t> tokens, std::span<const float> streams,
                     Reference64Observer& observer);
// The head over streams [rows, n * d].
Status observe_head64(const formats::ModelConfig& config, const model::WeightProvider& source,
                      std::span<const float> streams, Reference64Observer& observer);

}  // namespace cachalot::verify
