// Runs a model over token sequences in chosen pieces and keeps what verify compares.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "engine/runner.h"

namespace cachalot::verify {

// Everything one pass over one sequence produced, by layer where it is by layer.
struct PassRecord {
  int64_t rows = 0;
  std::vector<float> streams;                            // after the last layer, [rows, n * d]
  std::vector<float> logits;                             // [rows, vocab]
  std::map<int64_t, std::vector<float>> layer_streams;   // [rows, n * d]
  std::map<int64_t, std::vector<int32_t>> router_ids;    // [rows, k]
  std::map<int64_t, std::vector<float>> router_weights;  // [rows, k]
  std::map<int64_t, std::vector<int32_t>> selected;      // [rows, index_topk]
};

class GoldenRunner {
 public:
  // Room for num_sequences sequences of max_tokens tokens at a time.
  static Result<std::unique_ptr<GoldenRunner>> create(const model::Transformer& model,
                                                      device::ExecContext& ctx, int64_t max_tokens,
                                                      int64_t num_sequences);

  engine::Runner& runner() { return runner_; }
  Result<cache::SequenceCache> new_sequence() { return cache::SequenceCache::create(*pool_); }

  // Continues `sequence` with `tokens`, cut into pieces of the given lengths (they sum to the
  // number of tokens; empty: one piece). Logits of all rows where with_logits.
  Result<PassRecord> run(cache::SequenceCache& sequence, std::span<const int32_t> tokens,
                         std::span<const int64_t> pieces, bool with_logits);

 private:
  GoldenRunner(const model::Transformer& model, device::ExecContext& ctx) : runner_(model, ctx) {}
  std::unique_ptr<cache::BlockPool> pool_;
  engine::Runner runner_;
};

}  // namespace cachalot::verify
