// The narrow waist: all that the CLI, servers and rollouts see of a model. Requests are submitted
// and stream their events; sequences of tokens are opened, continued, forked, rewound, saved and
// restored; a tensor never shows.
//
// Promise  the tokens of a completion depend on the prompt, the sampling parameters and the model
//          alone: not on drafts, on chunk sizes, on what ran before or beside it, on preemptions,
//          on a fork or a restore, or on the thread count.
// Threads  one owner, who runs the steps, calls everything; any thread may call submit() (of a
//          request with a sequence of its own) and cancel(). Events come on the owner's thread; a
//          sink may submit and cancel, and nothing else.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "cache/prefix_cache.h"
#include "engine/generation.h"
#include "engine/loaded_model.h"
#include "engine/model_cache_layout.h"
#include "engine/request.h"
#include "engine/scheduler.h"
#include "engine/step_runner.h"

namespace cachalot::engine {

struct EngineOptions {
  ModelOptions model;
  int64_t weights_version = 0;     // of these weights (set_weights)
  int64_t max_context_tokens = 0;  // of one sequence; 0: the model's max_position_embeddings
  int64_t cache_bytes = int64_t{4} << 30;  // 0: what max_sequences of the longest context take
  int64_t cache_block_tokens = 256;        // positions that are given out, shared and kept as one
  int64_t max_sequences = 8;
  int64_t max_requests = 1024;         // submitted and not finished
  int64_t max_answers = 64;            // of a request
  int64_t prefill_chunk_tokens = 512;  // tokens of prompts that run at once
  double max_token_gap_seconds = 0;    // scheduler.h; 0: its default
  int64_t max_drafts = 4;              // the most a request may ask for
  // Where a step decodes alone the next begins before its tokens are read, which saves a GPU the
  // wait for the host. Empty: on a GPU. Changes no token.
  std::optional<bool> goes_on;
  // Seconds, from any start: what deadlines and the cost of steps are measured with. Empty: a clock
  // that never steps back.
  std::function<double()> clock;
  // None: every prompt runs whole. num_layers and weights_version are the engine's to fill in.
  std::optional<cache::PrefixCacheOptions> prefix_cache;
};

// What has happened since the start.
struct EngineCounts {
  int64_t steps = 0;
  int64_t gone_on = 0;  // of them, those that began before the tokens of the one before were read
  int64_t rows = 0;
  int64_t preemptions = 0;
  int64_t forks = 0;  // of answers
  int64_t drafted = 0;
  int64_t accepted = 0;
};

class Engine {
 public:
  static Result<std::unique_ptr<Engine>> create(const EngineOptions& options);
  // For models made elsewhere (random ones): takes ownership.
  static Result<std::unique_ptr<Engine>> create(std::unique_ptr<LoadedModel> model,
                                                const EngineOptions& options);

  const formats::ModelConfig& config() const { return config_; }
  const model::Precision& precision() const { return model_->transformer().precision(); }
  const model::ModelWeights& weights() const { return model_->transformer().weights(); }
  const cache::CacheLayout& cache_layout() const { return pool_->layout(); }
  int64_t max_context_tokens() const { return max_context_tokens_; }
  int num_threads() const { return model_->context().pool->num_threads(); }
  int64_t scratch_bytes() const { return model_->context().arena->reserved_bytes(); }
  int64_t cache_reserved_bytes() const { return pool_->reserved_bytes(); }
  const EngineCounts& counts() const { return counts_; }
  // Since the weights came; zeros where there is no prefix cache.
  cache::PrefixCounters prefix_counters() const;
  // The prefix cache keeps nothing in memory from before; its disk stays.
  void forget_prefixes();

  // Returns at once; each answer's last event is `finished`, with its completion or its error.
  // Errors  invalid_argument for bad parameters, an empty sequence, one that another request is
  //         under way in, or a context that would not fit; resource_exhausted beyond max_requests.
  //         The sequence is as before. As events: resource_exhausted where the cache is out of
  //         blocks or a promise (max token gap, deadline) cannot be kept.
  Result<RequestId> submit(Request request);
  // All answers of the request end before their next step, with what they have. An id that has
  // finished, or never was, is nothing.
  void cancel(RequestId id);
  // Of its first answer that has not finished; none where all have.
  std::optional<Phase> phase(RequestId id) const;
  // The requests under way go on with these weights: every row is run again. `version` is told in
  // completions. Errors: invalid_argument where the model's config or precision is another one.
  Status set_weights(std::unique_ptr<LoadedModel> model, int64_t version);
  int64_t weights_version() const { return weights_version_; }
  // Runs one step, or waits a moment where all wait for the disk. False where there is nothing left
  // to do.
  bool step();
  // Runs steps, and waits for requests where there are none, until told to stop.
  void run(const std::stop_token& stop);
  // Submits, with the sequence, and runs steps until it is answered: other requests go on beside.
  // num_answers is 1.
  Result<Completion> generate(SequenceId id, Request request);

  Result<SequenceId> open();
  // Of a sequence that no request is under way in; so are those below but tokens, num_cached.
  void close(SequenceId id);
  Result<SequenceId> fork(SequenceId id);
  // A fork of num_tokens tokens: where that is more, its tokens and rows come over and over. For
  // measurements of long contexts, whose cost does not depend on the values. The sequence has been
  // run but for its last token, and fills a block of the cache.
  Result<SequenceId> open_repeated(SequenceId id, int64_t num_tokens);
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

 private:
  explicit Engine(const EngineOptions& options);
  Status place(std::unique_ptr<LoadedModel> model, int64_t version);
  Sequence& at(SequenceId id);
  const Sequence& at(SequenceId id) const;
  Sequence& idle(SequenceId id);
  Status ensure_cache(Sequence& sequence);
  // The first `count` at most; none where the cache cannot step back so far.
  static Status keep_rows(Sequence& sequence, int64_t count);
  SequenceId add(Sequence sequence);
  Status validate(const Request& request) const;

  // The parts of a step.
  void take_submitted();
  void plan();
  void apply(const StepPlan& plan);
  void launch(const StepPlan& plan);
  // Whether the step after the one under way is of the same answers' next tokens, whatever these
  // are.
  bool can_go_on();
  double collect();  // seconds of the drafts
  void make_room_for(std::span<const StepRunner::Rows> rows);
  // Where the next piece of its prompt, which begins at `position`, ends at the latest.
  int64_t next_stop(const Generation& generation, int64_t position) const;
  bool may_find_prefix(const Generation& generation) const;
  // Whether what the prefix cache has of its prompt is in memory; asks for it where nobody has.
  bool has_prefix(const Generation& generation);
  // The cache of a prompt whose first rows the prefix cache has.
  Result<cache::SequenceCache> take_prefix(const Generation& generation);
  void drop_search(const Generation& generation);
  void wait_for_disk();
  void keep_prefix(Generation& generation, bool is_end);
  void remove_finished();
  Generation& generation(int64_t id);
  const Generation* first_answer(const Generation& generation) const;
  // The answer that this one, which has not started, would fork now; null: none.
  const Generation* fork_source(const Generation& generation) const;
  Status admit(Generation& generation);

  CacheOptions cache_options_;
  int64_t cache_bytes_;
  int64_t max_sequences_;
  int64_t max_context_tokens_;
  int64_t max_requests_;
  int64_t max_answers_;
  int64_t max_drafts_;
  std::optional<bool> goes_on_;
  Promises promises_;
  std::function<double()> clock_;
  std::optional<cache::PrefixCacheOptions> prefix_options_;

  formats::ModelConfig config_;  // of every model that there will be
  std::unique_ptr<LoadedModel> model_;
  int64_t weights_version_ = 0;
  // Before prefix_, whose disk's thread uses them.
  mutable std::mutex mutex_;  // of submitted_ and what follows it, and
  bool has_disk_news_ = false;
  std::condition_variable_any has_work_;
  std::unique_ptr<cache::BlockPool> pool_;
  // Null where there is none. After pool_, as are sequences: they give blocks back.
  std::unique_ptr<cache::PrefixCache> prefix_;
  std::unordered_map<int64_t, cache::SearchId> searches_;  // of answers that wait, by their ids
  std::unique_ptr<StepRunner> steps_;
  std::unordered_map<SequenceId, Sequence> sequences_;
  SequenceId next_sequence_id_ = 0;
  std::vector<std::unique_ptr<Generation>> generations_;  // unfinished, ids ascending
  int64_t next_generation_id_ = 0;
  std::vector<Candidate> candidates_;
  std::vector<const Generation*> of_candidates_;
  StepPlan plan_;
  std::vector<StepRunner::Rows> step_rows_;
  CostModel cost_;
  DraftHistory draft_history_;  // of the answers that have ended
  EngineCounts counts_;

  std::vector<std::shared_ptr<Submitted>> submitted_;
  std::vector<RequestId> cancelled_;
  RequestId next_request_id_ = 0;
  int64_t num_requests_ = 0;
};

}  // namespace cachalot::engine
