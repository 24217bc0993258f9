#include "engine/engine.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/generation.h"
#include "engine/model_cache_layout.h"

namespace cachalot::engine {

std::string_view finish_name(Finish finish) {
  switch (finish) {
    case Finish::stop: return "stop";
    case Finish::length: return "length";
    case Finish::cancelled: return "cancelled";
  }
  return "unknown";
}

Engine::Engine(std::unique_ptr<LoadedModel> model)
    : model_(std::move(model)), runner_(model_->transformer(), model_->context()) {}

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
  std::unique_ptr<Engine> engine(new Engine(std::move(model)));
  CacheOptions cache_options;
  cache_options.rewind_slack = std::max(cache_options.rewind_slack, options.max_drafts);
  cache_options.weights_fingerprint = engine->model_->weights_fingerprint();
  CACHALOT_ASSIGN_OR_RETURN(
      cache::CacheLayout layout,
      model_cache_layout(engine->config(), engine->model_->transformer().precision(),
                         cache_options));
  CACHALOT_ASSIGN_OR_RETURN(
      const cache::PoolLimits limits,
      cache::limits_for_bytes(layout, options.cache_bytes, options.max_sequences));
  CACHALOT_ASSIGN_OR_RETURN(engine->pool_, cache::BlockPool::create(std::move(layout), limits));
  engine->max_context_tokens_ = options.max_context_tokens > 0
                                    ? options.max_context_tokens
                                    : engine->config().max_position_embeddings;
  engine->prefill_chunk_tokens_ = options.prefill_chunk_tokens;
  engine->max_drafts_ = options.max_drafts;
  return engine;
}

Engine::Sequence& Engine::at(SequenceId id) {
  const auto found = sequences_.find(id);
  CACHALOT_CHECK_MSG(found != sequences_.end(), fmt::format("no sequence {}", id));
  return found->second;
}
const Engine::Sequence& Engine::at(SequenceId id) const {
  return const_cast<Engine*>(this)->at(id);
}

SequenceId Engine::add(Sequence sequence) {
  sequences_.emplace(next_id_, std::move(sequence));
  return next_id_++;
}

Result<SequenceId> Engine::open() {
  CACHALOT_ASSIGN_OR_RETURN(cache::SequenceCache cache, cache::SequenceCache::create(*pool_));
  return add({std::move(cache), {}});
}

void Engine::close(SequenceId id) {
  at(id);
  sequences_.erase(id);
}

Result<SequenceId> Engine::fork(SequenceId id) {
  const Sequence& from = at(id);
  CACHALOT_ASSIGN_OR_RETURN(cache::SequenceCache cache, from.cache.fork());
  return add({std::move(cache), from.tokens});
}

Status Engine::rewind(SequenceId id, int64_t num_tokens) {
  Sequence& sequence = at(id);
  const auto length = static_cast<int64_t>(sequence.tokens.size());
  if (num_tokens < 0 || num_tokens > length) {
    return invalid_argument(
        fmt::format("rewind: expected 0 to {} tokens, found {}", length, num_tokens));
  }
  // The last token that stays is run again, so that there are logits to go on from.
  const int64_t cached =
      std::min(sequence.cache.num_tokens(), std::max<int64_t>(num_tokens - 1, 0));
  if (cached < sequence.cache.num_tokens()) {
    if (cached >= sequence.cache.min_rewind_tokens()) {
      CACHALOT_RETURN_IF_ERROR(sequence.cache.rewind(cached));
    } else {
      sequence.cache.clear();
    }
  }
  sequence.tokens.resize(static_cast<size_t>(num_tokens));
  return {};
}

std::span<const int32_t> Engine::tokens(SequenceId id) const { return at(id).tokens; }
int64_t Engine::num_cached(SequenceId id) const { return at(id).cache.num_tokens(); }

Status Engine::save(SequenceId id, const std::string& path) {
  Sequence& sequence = at(id);
  const auto total = static_cast<int64_t>(sequence.tokens.size());
  const model::Transformer& model = model_->transformer();
  std::vector<float> streams;
  while (sequence.cache.num_tokens() < total) {
    const int64_t first = sequence.cache.num_tokens();
    const int64_t count = std::min(prefill_chunk_tokens_, total - first);
    streams.resize(static_cast<size_t>(count * model.num_streams() * config().hidden_size));
    const StepInput input{
        &sequence.cache,
        std::span(sequence.tokens).subspan(static_cast<size_t>(first), static_cast<size_t>(count))};
    CACHALOT_RETURN_IF_ERROR(runner_.forward({&input, 1}, streams.data()));
  }
  return sequence.cache.save(path, sequence.tokens);
}

Result<SequenceId> Engine::restore(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(cache::RestoredSequence restored,
                            cache::SequenceCache::restore(*pool_, path));
  if (static_cast<int64_t>(restored.token_ids.size()) != restored.cache.num_tokens()) {
    return invalid_argument(fmt::format("{}: expected the ids of {} tokens, found {}", path,
                                        restored.cache.num_tokens(), restored.token_ids.size()));
  }
  const SequenceId id = add({std::move(restored.cache), std::move(restored.token_ids)});
  // The last token runs again, so that there are logits to go on from.
  CACHALOT_RETURN_IF_ERROR(rewind(id, static_cast<int64_t>(tokens(id).size())));
  return id;
}

Status Engine::validate(const Sequence& sequence, const GenerateRequest& request) const {
  CACHALOT_RETURN_IF_ERROR(engine::validate(request.sampling, config().vocab_size));
  const auto total = static_cast<int64_t>(sequence.tokens.size() + request.prompt.size());
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
  for (size_t i = 0; i < request.prompt.size(); ++i) {
    if (request.prompt[i] < 0 || request.prompt[i] >= config().vocab_size) {
      return invalid_argument(fmt::format("prompt token {}: expected an id in [0, {}), found {}", i,
                                          config().vocab_size, request.prompt[i]));
    }
  }
  return {};
}

Result<Completion> Engine::generate(SequenceId id, const GenerateRequest& request,
                                    const std::function<bool(const Event&)>& on_event) {
  Sequence& sequence = at(id);
  CACHALOT_RETURN_IF_ERROR(validate(sequence, request));
  cancelled_.store(false, std::memory_order_relaxed);
  return Generation(*this, sequence, request, on_event).run();
}

}  // namespace cachalot::engine
