#include "engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/object.hpp>
#include <optional>

#include "device/floats.h"
#include "engine/model_cache_layout.h"
#include "engine/steady_seconds.h"

namespace cachalot::engine {
namespace {

bool is_same(const model::Precision& a, const model::Precision& b) {
  return a.bf16 == b.bf16 && a.act8 == b.act8 && a.rotate_index == b.rotate_index &&
         a.index_fp4 == b.index_fp4 && a.kv == b.kv && a.index == b.index;
}

}  // namespace

Engine::Engine(const EngineOptions& options)
    : cache_options_{.block_tokens = options.cache_block_tokens,
                     .rewind_slack = std::max(CacheOptions().rewind_slack, options.max_drafts)},
      cache_bytes_(options.cache_bytes),
      max_sequences_(options.max_sequences),
      max_context_tokens_(options.max_context_tokens),
      max_requests_(options.max_requests),
      max_answers_(options.max_answers),
      max_drafts_(options.max_drafts),
      goes_on_(options.goes_on),
      promises_{options.prefill_chunk_tokens, options.max_token_gap_seconds},
      clock_(options.clock ? options.clock : steady_seconds),
      prefix_options_(options.prefix_cache) {}

Result<std::unique_ptr<Engine>> Engine::create(const EngineOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> model, LoadedModel::load(options.model));
  return create(std::move(model), options);
}

Result<std::unique_ptr<Engine>> Engine::create(std::unique_ptr<LoadedModel> model,
                                               const EngineOptions& options) {
  if (options.prefill_chunk_tokens < 1) {
    return invalid_argument(fmt::format("prefill_chunk_tokens: expected at least 1, found {}",
                                        options.prefill_chunk_tokens));
  }
  if (!(options.max_token_gap_seconds >= 0)) {
    return invalid_argument(fmt::format("max_token_gap: expected at least 0 seconds, found {}",
                                        options.max_token_gap_seconds));
  }
  if (options.cache_block_tokens < 1) {
    return invalid_argument(fmt::format("cache_block_tokens: expected at least 1, found {}",
                                        options.cache_block_tokens));
  }
  std::unique_ptr<Engine> engine(new Engine(options));
  engine->config_ = model->transformer().config();
  if (engine->max_context_tokens_ <= 0)
    engine->max_context_tokens_ = engine->config().max_position_embeddings;
  CACHALOT_RETURN_IF_ERROR(engine->place(std::move(model), options.weights_version));
  return engine;
}

// The model, and an empty cache for its rows.
Status Engine::place(std::unique_ptr<LoadedModel> model, int64_t version) {
  const model::Transformer& transformer = model->transformer();
  cache_options_.weights_fingerprint = model->weights_fingerprint();
  CACHALOT_ASSIGN_OR_RETURN(
      cache::CacheLayout layout,
      model_cache_layout(transformer.config(), transformer.precision(), cache_options_));
  cache::PoolLimits limits{layout.num_blocks(max_context_tokens_) * max_sequences_, max_sequences_};
  if (cache_bytes_ > 0) {
    CACHALOT_ASSIGN_OR_RETURN(limits,
                              cache::limits_for_bytes(layout, cache_bytes_, max_sequences_));
  }
  CACHALOT_ASSIGN_OR_RETURN(
      std::unique_ptr<cache::BlockPool> pool,
      cache::BlockPool::create(std::move(layout), limits, model->context().gpu));
  searches_.clear();
  prefix_.reset();
  pool_ = std::move(pool);
  if (prefix_options_) {
    cache::PrefixCacheOptions options = *prefix_options_;
    options.num_layers = transformer.config().num_hidden_layers;
    options.weights_version = static_cast<uint64_t>(version);
    options.on_disk_news = [this] {
      const std::scoped_lock lock(mutex_);
      has_disk_news_ = true;
      has_work_.notify_one();
    };
    CACHALOT_ASSIGN_OR_RETURN(prefix_, cache::PrefixCache::create(*pool_, options));
  }
  steps_ = std::make_unique<StepRunner>(transformer, model->context(), clock_);
  model_ = std::move(model);
  weights_version_ = version;
  return {};
}

Status Engine::set_weights(std::unique_ptr<LoadedModel> model, int64_t version) {
  if (formats::to_json(model->transformer().config()) != formats::to_json(config()) ||
      !is_same(model->transformer().precision(), precision())) {
    return invalid_argument(
        fmt::format("weights {}: expected the config and the precision of weights {}, found others",
                    version, weights_version_));
  }
  steps_->drop_all();
  std::vector<Sequence*> with_state;
  for (auto& [id, sequence] : sequences_) {
    if (sequence.cache && !sequence.is_busy) with_state.push_back(&sequence);
    sequence.cache.reset();
    sequence.mtp_end = 0;
  }
  for (const std::unique_ptr<Generation>& generation : generations_) {
    if (generation->phase() == Phase::prefilling || generation->phase() == Phase::decoding)
      generation->pause();
  }
  CACHALOT_RETURN_IF_ERROR(place(std::move(model), version));
  for (Sequence* sequence : with_state) CACHALOT_RETURN_IF_ERROR(ensure_cache(*sequence));
  return {};
}

Sequence& Engine::at(SequenceId id) {
  const auto found = sequences_.find(id);
  CACHALOT_CHECK_MSG(found != sequences_.end(), fmt::format("no sequence {}", id));
  return found->second;
}
const Sequence& Engine::at(SequenceId id) const { return const_cast<Engine*>(this)->at(id); }

Sequence& Engine::idle(SequenceId id) {
  Sequence& sequence = at(id);
  CACHALOT_CHECK_MSG(!sequence.is_busy, fmt::format("sequence {} has a request under way", id));
  return sequence;
}

SequenceId Engine::add(Sequence sequence) {
  sequences_.emplace(next_sequence_id_, std::move(sequence));
  return next_sequence_id_++;
}

Status Engine::ensure_cache(Sequence& sequence) {
  if (sequence.cache) return {};
  CACHALOT_ASSIGN_OR_RETURN(sequence.cache, cache::SequenceCache::create(*pool_));
  return {};
}

Result<SequenceId> Engine::open() {
  Sequence sequence;
  CACHALOT_RETURN_IF_ERROR(ensure_cache(sequence));
  return add(std::move(sequence));
}

void Engine::close(SequenceId id) {
  idle(id);
  sequences_.erase(id);
}

Result<SequenceId> Engine::fork(SequenceId id) {
  const Sequence& from = idle(id);
  Sequence copy;
  if (from.cache) {
    if (prefix_ != nullptr) prefix_->make_room(1);  // of the block that is not whole
    CACHALOT_ASSIGN_OR_RETURN(copy.cache, from.cache->fork());
  } else {
    CACHALOT_RETURN_IF_ERROR(ensure_cache(copy));
  }
  copy.tokens = from.tokens;
  copy.mtp_end = from.mtp_end;
  return add(std::move(copy));
}

Result<SequenceId> Engine::open_repeated(SequenceId id, int64_t num_tokens) {
  CACHALOT_ASSIGN_OR_RETURN(const SequenceId copy_id, fork(id));
  Sequence& copy = at(copy_id);
  if (num_tokens <= copy.num_tokens()) return copy_id;
  std::vector<int32_t>& tokens = copy.tokens;
  const size_t length = tokens.size();
  while (copy.num_tokens() < num_tokens) tokens.push_back(tokens[tokens.size() - length]);
  Status repeated = copy.cache->repeat_blocks(num_tokens - 1);
  if (repeated.ok()) return copy_id;
  close(copy_id);
  return repeated;
}

Status Engine::keep_rows(Sequence& sequence, int64_t count) {
  if (sequence.num_cached() <= count) return {};
  if (count >= sequence.cache->min_rewind_tokens()) {
    CACHALOT_RETURN_IF_ERROR(sequence.cache->rewind(count));
  } else {
    sequence.cache->clear();
  }
  sequence.mtp_end = std::min(sequence.mtp_end, sequence.num_cached());
  return {};
}

Status Engine::rewind(SequenceId id, int64_t num_tokens) {
  Sequence& sequence = idle(id);
  if (num_tokens < 0 || num_tokens > sequence.num_tokens()) {
    return invalid_argument(fmt::format("rewind: expected 0 to {} tokens, found {}",
                                        sequence.num_tokens(), num_tokens));
  }
  // The last token that stays is run again, so that there are logits to go on from.
  CACHALOT_RETURN_IF_ERROR(keep_rows(sequence, std::max<int64_t>(num_tokens - 1, 0)));
  sequence.tokens.resize(static_cast<size_t>(num_tokens));
  return {};
}

cache::PrefixCounters Engine::prefix_counters() const {
  return prefix_ != nullptr ? prefix_->counters() : cache::PrefixCounters{};
}

void Engine::forget_prefixes() {
  if (prefix_ != nullptr) prefix_->clear();
}

std::span<const int32_t> Engine::tokens(SequenceId id) const { return at(id).tokens; }
int64_t Engine::num_cached(SequenceId id) const { return at(id).num_cached(); }

Status Engine::save(SequenceId id, const std::string& path) {
  Sequence& sequence = idle(id);
  CACHALOT_RETURN_IF_ERROR(ensure_cache(sequence));
  if (prefix_ != nullptr) prefix_->make_room(pool_->layout().num_blocks(sequence.num_tokens()));
  const model::Transformer& model = model_->transformer();
  device::Floats streams(model_->context());
  while (sequence.num_cached() < sequence.num_tokens()) {
    const int64_t first = sequence.num_cached();
    const int64_t count = std::min(promises_.max_step_rows, sequence.num_tokens() - first);
    streams.make_room(count * model.num_streams() * config().hidden_size);
    const StepInput input{
        &*sequence.cache,
        std::span(sequence.tokens).subspan(static_cast<size_t>(first), static_cast<size_t>(count))};
    CACHALOT_RETURN_IF_ERROR(steps_->runner().forward({&input, 1}, streams.data()));
  }
  return sequence.cache->save(path, sequence.tokens);
}

Result<SequenceId> Engine::restore(const std::string& path) {
  Result<cache::RestoredSequence> read = cache::SequenceCache::restore(*pool_, path);
  // How much room it takes is known once it is read.
  if (!read && read.error().code() == StatusCode::resource_exhausted && prefix_ != nullptr) {
    prefix_->clear();
    read = cache::SequenceCache::restore(*pool_, path);
  }
  if (!read) return read.error();
  cache::RestoredSequence restored = *std::move(read);
  if (static_cast<int64_t>(restored.token_ids.size()) != restored.cache.num_tokens()) {
    return invalid_argument(fmt::format("{}: expected the ids of {} tokens, found {}", path,
                                        restored.cache.num_tokens(), restored.token_ids.size()));
  }
  Sequence sequence;
  sequence.cache = std::move(restored.cache);
  sequence.tokens = std::move(restored.token_ids);
  const SequenceId id = add(std::move(sequence));
  // The last token runs again, so that there are logits to go on from.
  CACHALOT_RETURN_IF_ERROR(rewind(id, static_cast<int64_t>(tokens(id).size())));
  return id;
}

Status Engine::validate(const Request& request) const {
  CACHALOT_RETURN_IF_ERROR(engine::validate(request.sampling, config().vocab_size));
  int64_t total = static_cast<int64_t>(request.prompt.size());
  if (request.sequence != kNewSequence) {
    const Sequence& sequence = at(request.sequence);
    if (sequence.is_busy) {
      return invalid_argument(fmt::format(
          "sequence {}: expected one that no request is under way in", request.sequence));
    }
    total += sequence.num_tokens();
    if (!request.cache_salt.empty()) {
      return invalid_argument(
          fmt::format("cache_salt: expected a sequence of the request's own, found sequence {}",
                      request.sequence));
    }
  }
  if (total == 0) return invalid_argument("prompt: expected at least one token, found none");
  if (total > max_context_tokens_) {
    return invalid_argument(fmt::format("prompt: expected a context of at most {} tokens, found {}",
                                        max_context_tokens_, total));
  }
  if (request.max_new_tokens < 0 || request.max_new_tokens > max_context_tokens_ - total) {
    return invalid_argument(
        fmt::format("max_new_tokens: expected 0 to {} beside {} tokens of context, found {}",
                    max_context_tokens_ - total, total, request.max_new_tokens));
  }
  if (request.num_drafts < 0 || request.num_drafts > max_drafts_) {
    return invalid_argument(
        fmt::format("num_drafts: expected 0 to {}, found {}", max_drafts_, request.num_drafts));
  }
  if (request.num_answers < 1 || request.num_answers > max_answers_) {
    return invalid_argument(
        fmt::format("num_answers: expected 1 to {}, found {}", max_answers_, request.num_answers));
  }
  if (request.on_prompt_logits && (request.max_new_tokens > 0 || request.num_answers > 1)) {
    return invalid_argument(fmt::format(
        "on_prompt_logits: expected max_new_tokens 0 and num_answers 1, found {} and {}",
        request.max_new_tokens, request.num_answers));
  }
  if (request.wants_label_logprobs && pool_->gpu() != nullptr) {
    return unsupported("wants_label_logprobs: expected a model on the CPU, found one on a GPU");
  }
  if (request.wants_label_logprobs) {
    const SamplingParams& s = request.sampling;
    if (s.temperature == 0 || s.repetition_penalty != 1 || s.frequency_penalty != 0 ||
        s.presence_penalty != 0 || !s.logit_bias.empty()) {
      return invalid_argument(
          "wants_label_logprobs: expected a temperature above 0 without penalties and biases, "
          "found others");
    }
  }
  if (!(request.deadline_seconds >= 0)) {
    return invalid_argument(
        fmt::format("deadline_seconds: expected at least 0, found {}", request.deadline_seconds));
  }
  for (size_t i = 0; i < request.prompt.size(); ++i) {
    if (request.prompt[i] < 0 || request.prompt[i] >= config().vocab_size) {
      return invalid_argument(fmt::format("prompt token {}: expected an id in [0, {}), found {}", i,
                                          config().vocab_size, request.prompt[i]));
    }
  }
  return {};
}

Result<RequestId> Engine::submit(Request request) {
  CACHALOT_RETURN_IF_ERROR(validate(request));
  auto submitted = std::make_shared<Submitted>();
  submitted->submitted_s = clock_();
  submitted->num_unfinished = request.num_answers;
  const std::scoped_lock lock(mutex_);
  if (num_requests_ >= max_requests_) {
    return resource_exhausted(
        fmt::format("requests: expected at most {} at a time, found one more", max_requests_));
  }
  ++num_requests_;
  submitted->id = next_request_id_++;
  if (request.sequence != kNewSequence) at(request.sequence).is_busy = true;
  submitted->request = std::move(request);
  submitted_.push_back(submitted);
  has_work_.notify_one();
  return submitted->id;
}

void Engine::cancel(RequestId id) {
  const std::scoped_lock lock(mutex_);
  cancelled_.push_back(id);
  has_work_.notify_one();
}

Result<Completion> Engine::generate(SequenceId id, Request request) {
  if (request.num_answers != 1) {
    return invalid_argument(fmt::format("num_answers: expected 1, found {}", request.num_answers));
  }
  std::optional<Result<Completion>> result;
  request.sequence = id;
  request.on_event = [&result, next = std::move(request.on_event)](const Event& event) {
    if (event.kind == Event::Kind::finished) result = *event.result;
    return !next || next(event);
  };
  const Result<RequestId> submitted = submit(std::move(request));
  if (!submitted) return submitted.error();
  while (!result) step();
  return *std::move(result);
}

}  // namespace cachalot::engine
