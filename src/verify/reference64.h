// The whole forward pass in float64, plain loops, one sequence from position 0, nothing shared with
// ops/: an independent evaluation of reference/forward. At `official` it makes every rounding of
// the published code (bf16, FP8, FP4), so that what is left between it and any fp32 implementation
// is the order and width of sums.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "formats/config.h"
#include "model/weight_provider.h"

namespace cachalot::verify {

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

}  // namespace cachalot::verify
