// The narrow waist: all that the CLI, servers and rollouts see of a model. Sequences of tokens are
// opened, continued, forked, rewound, saved and restored; a tensor never shows.
//
// Promise  the tokens of a completion depend on the prompt, the sampling parameters and the model
//          alone: not on drafts, on chunk sizes, on what else ran before, on a fork or a restore,
//          or on the thread count.
// Threads  one owner calls everything but cancel(), which any thread (or a signal handler) may
//          call.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "cache/sequence_cache.h"
#include "engine/loaded_model.h"
#include "engine/runner.h"
#include "engine/sampling_params.h"

namespace cachalot::engine {

struct EngineOptions {
  ModelOptions model;
  int64_t max_context_tokens = 0;  // of one sequence; 0: the model's max_position_embeddings
  int64_t cache_bytes = int64_t{4} << 30;
  int64_t max_sequences = 8;
  int64_t prefill_chunk_tokens = 512;  // tokens of a prompt that run at once
  int64_t max_drafts = 4;              // the most a request may ask for
};

struct GenerateRequest {
  std::span<const int32_t> prompt;  // appended to the sequence
  SamplingParams sampling;
  int64_t max_new_tokens = 256;
  // end the completion; kept in the sequence, not in the completion's ids
  std::vector<int32_t> stop_tokens;
  // At temperature 0 a drawn token's probability is 1; asked for, its logprob is the model's own
  // (before all sampling), at the cost of a pass over the vocabulary.
  bool wants_model_logprobs = false;
  int64_t num_drafts = 0;  // drafted by the MTP block a step; 0 without one
};

struct Event {
  enum class Kind { prefill, token };
  Kind kind;
  int64_t done_tokens = 0;  // prefill: of the prompt so far
  int64_t total_tokens = 0;
  int32_t token = -1;    // token
  double logprob = 0.0;  // in the distribution it was drawn from, or wants_model_logprobs
};

enum class Finish { stop, length, cancelled };
std::string_view finish_name(Finish finish);

struct Completion {
  std::vector<int32_t> ids;
  std::vector<double> logprobs;
  Finish finish = Finish::length;
  int64_t prompt_tokens = 0;  // newly run, cached ones apart
  double prefill_seconds = 0;
  double decode_seconds = 0;
  int64_t drafted = 0;
  int64_t accepted = 0;
};

using SequenceId = int64_t;

class Engine {
 public:
  static Result<std::unique_ptr<Engine>> create(const EngineOptions& options);
  // For models made elsewhere (random ones): takes ownership.
  static Result<std::unique_ptr<Engine>> create(std::unique_ptr<LoadedModel> model,
                                                const EngineOptions& options);

  const formats::ModelConfig& config() const { return model_->transformer().config(); }
  const model::Precision& precision() const { return model_->transformer().precision(); }
  const model::ModelWeights& weights() const { return model_->transformer().weights(); }
  const cache::CacheLayout& cache_layout() const { return pool_->layout(); }
  int64_t max_context_tokens() const { return max_context_tokens_; }
  int num_threads() const { return model_->context().pool->num_threads(); }
  int64_t scratch_bytes() const { return model_->context().arena->reserved_bytes(); }
  int64_t cache_reserved_bytes() const { return pool_->reserved_bytes(); }

  Result<SequenceId> open();
  void close(SequenceId id);
  Result<SequenceId> fork(SequenceId id);
  // Keeps the first num_tokens tokens. Further back than the cache can step, the sequence starts
  // anew and the tokens that stay run again with the next request.
  Status rewind(SequenceId id, int64_t num_tokens);
  std::span<const int32_t> tokens(SequenceId id) const;
  // Positions whose rows the cache holds; the others run with the next request.
  int64_t num_cached(SequenceId id) const;
  // All of the sequence: tokens that have not been through the model, as the last sampled one, run
  // first.
  Status save(SequenceId id, const std::string& path);
  Result<SequenceId> restore(const std::string& path);

  // Appends the prompt, then samples. on_event is called on this thread; returning false cancels.
  // Errors  invalid_argument for bad parameters, an empty sequence or a context that would not fit;
  //         the sequence is as before. resource_exhausted where the cache is out of blocks.
  Result<Completion> generate(SequenceId id, const GenerateRequest& request,
                              const std::function<bool(const Event&)>& on_event = {});

  // The completion that runs (or the next one) ends after its current step, with what it has.
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }

 private:
  // A sequence's tokens may run ahead of its cache: the last sampled one has not been through the
  // model.
  struct Sequence {
    cache::SequenceCache cache;
    std::vector<int32_t> tokens;
  };
  class Generation;

  explicit Engine(std::unique_ptr<LoadedModel> model);
  Sequence& at(SequenceId id);
  const Sequence& at(SequenceId id) const;
  SequenceId add(Sequence sequence);
  Status validate(const Sequence& sequence, const GenerateRequest& request) const;

  std::unique_ptr<LoadedModel> model_;
  std::unique_ptr<cache::BlockPool> pool_;
  Runner runner_;
  std::unordered_map<SequenceId, Sequence> sequences_;  // after pool_: gives its blocks back first
  SequenceId next_id_ = 0;
  int64_t max_context_tokens_ = 0;
  int64_t prefill_chunk_tokens_ = 0;
  int64_t max_drafts_ = 0;
  std::atomic<bool> cancelled_{false};
};

}  // namespace cachalot::engine
