// How a step comes about: what has been submitted, the plan, the rows, what came of them.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "engine/engine.h"

namespace cachalot::engine {
namespace {

// How long a step waits for the disk at most: deadlines and who stops the engine are looked at
// again.
constexpr std::chrono::milliseconds kDiskWait{2};

Status refusal(const StepPlan::Refused& refused, const Sequence& sequence,
               const cache::BlockPool& pool, const Promises& promises) {
  switch (refused.why) {
    case Refusal::no_room:
      return resource_exhausted(fmt::format(
          "KV blocks: needed {} for {} tokens of {} a block and one of {} sequence states, free {} "
          "blocks of {} and {} states",
          pool.layout().num_blocks(sequence.num_tokens()), sequence.num_tokens(),
          pool.layout().block_tokens(), pool.states().max_items(), pool.blocks().num_free(),
          pool.blocks().max_items(), pool.states().num_free()));
    case Refusal::token_gap:
      return resource_exhausted(
          fmt::format("max_token_gap: expected a step within {:.6f} s, found none that fast",
                      promises.max_token_gap_s));
    case Refusal::deadline:
      return resource_exhausted(fmt::format(
          "deadline: expected one that a prompt of {} tokens leaves time for, found an earlier one",
          sequence.num_tokens()));
  }
  return {};
}

}  // namespace

void Engine::take_submitted() {
  std::vector<std::shared_ptr<Submitted>> submitted;
  std::vector<RequestId> cancelled;
  {
    const std::scoped_lock lock(mutex_);
    submitted.swap(submitted_);
    cancelled.swap(cancelled_);
    has_disk_news_ = false;
  }
  for (const std::shared_ptr<Submitted>& request : submitted) {
    SequenceId id = request->request.sequence;
    if (id == kNewSequence) id = add({});
    // The others start where the first one does, before it appends the prompt.
    const std::vector<int32_t> before = at(id).tokens;
    for (int64_t answer = 0; answer < request->request.num_answers; ++answer) {
      if (answer > 0) {
        id = add({});
        at(id).tokens = before;
      }
      generations_.push_back(std::make_unique<Generation>(next_generation_id_++, request, answer,
                                                          id, at(id), config(), draft_history_));
    }
  }
  for (const std::unique_ptr<Generation>& generation : generations_) {
    Submitted& request = generation->submitted();
    if (std::find(cancelled.begin(), cancelled.end(), request.id) != cancelled.end())
      request.is_cancelled = true;
    if (request.is_cancelled) generation->finish(Finish::cancelled, clock_());
  }
}

Generation& Engine::generation(int64_t id) {
  const auto found = std::lower_bound(
      generations_.begin(), generations_.end(), id,
      [](const std::unique_ptr<Generation>& g, int64_t wanted) { return g->id() < wanted; });
  CACHALOT_CHECK(found != generations_.end() && (*found)->id() == id);
  return **found;
}

// The answer that a later one may fork; null where it has finished. Answers of a request have ids
// in a row.
const Generation* Engine::first_answer(const Generation& generation) const {
  const int64_t id = generation.id() - generation.answer();
  const auto found = std::lower_bound(
      generations_.begin(), generations_.end(), id,
      [](const std::unique_ptr<Generation>& g, int64_t wanted) { return g->id() < wanted; });
  return found != generations_.end() && (*found)->id() == id ? found->get() : nullptr;
}

const Generation* Engine::fork_source(const Generation& generation) const {
  const Generation* first = generation.can_fork() ? first_answer(generation) : nullptr;
  return first != nullptr && first->is_at_prompt_end() ? first : nullptr;
}

void Engine::plan() {
  if (prefix_ != nullptr) prefix_->advance();
  candidates_.clear();
  of_candidates_.clear();
  int64_t wanted = 0;  // blocks, by all of them, beside those they have
  for (const std::unique_ptr<Generation>& generation : generations_) {
    if (generation->is_finished()) continue;
    Candidate candidate = generation->candidate();
    if (generation->can_fork()) {
      const Generation* first = first_answer(*generation);
      if (first != nullptr && first->is_before_decoding()) continue;  // there is more to come
    }
    // Prompts are looked for as they come, as many as could start.
    const bool is_searched = searches_.contains(generation->id());
    const bool has_place = static_cast<int64_t>(searches_.size()) < pool_->states().num_free();
    if (may_find_prefix(*generation) && (is_searched || has_place) && !has_prefix(*generation) &&
        candidate.deadline_s > clock_())
      continue;
    if (const Generation* source = fork_source(*generation)) {
      const cache::SequenceCache& cache = *source->sequence().cache;
      candidate.num_cached = cache.num_tokens();
      candidate.num_blocks = cache.num_whole_blocks();
    }
    candidate.next_stop = next_stop(*generation, candidate.num_cached);
    const int64_t blocks = pool_->layout().num_blocks(candidate.num_tokens + candidate.num_drafts);
    wanted += std::max<int64_t>(0, blocks - candidate.num_blocks) + 1;
    candidates_.push_back(candidate);
    of_candidates_.push_back(generation.get());
  }
  Room room{pool_->states().num_free(), pool_->blocks().num_free(),
            pool_->layout().block_bytes() == 0 ? 0 : pool_->layout().block_tokens()};
  // What could be freed matters, and takes time to count, where there is not enough.
  if (room.free_blocks < wanted) {
    if (prefix_ != nullptr) {
      const auto free_blocks = [&] {
        return pool_->blocks().num_free() + prefix_->num_idle_blocks();
      };
      // Blocks that are being read into are nobody's: none is refused for them.
      if (free_blocks() < wanted) prefix_->wait_for_reads();
      room.free_blocks = free_blocks();
    }
    for (size_t i = 0; i < candidates_.size(); ++i) {
      const std::optional<cache::SequenceCache>& cache = of_candidates_[i]->sequence().cache;
      if (!cache) continue;
      candidates_[i].num_own =
          prefix_ != nullptr ? prefix_->num_own_blocks(*cache) : cache->num_own_blocks();
    }
  }
  plan_step(candidates_, room, cost_, promises_, clock_(), plan_);
}

int64_t Engine::next_stop(const Generation& generation, int64_t position) const {
  const int64_t end = generation.num_prompt_tokens();
  return prefix_ != nullptr && position < end ? prefix_->next_stop(position, end) : end;
}

bool Engine::may_find_prefix(const Generation& generation) const {
  const bool waits = generation.phase() == Phase::waiting || generation.phase() == Phase::paused;
  return prefix_ != nullptr && waits && generation.sequence().num_cached() == 0 &&
         generation.may_skip_rows() && fork_source(generation) == nullptr;
}

bool Engine::has_prefix(const Generation& generation) {
  const auto [search, is_new] = searches_.try_emplace(generation.id());
  if (is_new) {
    // The last token runs in any case, for its logits.
    const std::span<const int32_t> tokens = generation.sequence().tokens;
    search->second =
        prefix_->begin_find(tokens.first(tokens.size() - 1), generation.request().cache_salt);
  }
  return prefix_->is_found(search->second);
}

void Engine::drop_search(const Generation& generation) {
  const auto search = searches_.find(generation.id());
  if (search == searches_.end()) return;
  prefix_->drop_find(search->second);
  searches_.erase(search);
}

Result<cache::SequenceCache> Engine::take_prefix(const Generation& generation) {
  const cache::SearchId search = searches_.extract(generation.id()).mapped();
  CACHALOT_ASSIGN_OR_RETURN(cache::PrefixHit hit, prefix_->end_find(search));
  const int64_t found = hit.cache.num_tokens();
  if (hit.rebuild_from < found) {
    const std::span<const int32_t> tokens = generation.sequence().tokens;
    steps_->runner().rebuild_state(hit.cache,
                                   tokens.subspan(static_cast<size_t>(hit.rebuild_from),
                                                  static_cast<size_t>(found - hit.rebuild_from)),
                                   promises_.max_step_rows);
  }
  return std::move(hit.cache);
}

Status Engine::admit(Generation& generation) {
  Sequence& sequence = generation.sequence();
  const Generation* source = fork_source(generation);
  if (source != nullptr) {
    drop_search(generation);
    if (prefix_ != nullptr) prefix_->make_room(1);  // of the block that is not whole
    CACHALOT_ASSIGN_OR_RETURN(sequence.cache, source->sequence().cache->fork());
    ++counts_.forks;
  } else {
    if (may_find_prefix(generation)) {
      sequence.cache.reset();  // its state may be the one that is wanted
      CACHALOT_ASSIGN_OR_RETURN(sequence.cache, take_prefix(generation));
    }
    CACHALOT_RETURN_IF_ERROR(ensure_cache(sequence));
    // A sequence that has been run to its end has no logits to go on from.
    CACHALOT_RETURN_IF_ERROR(keep_rows(sequence, generation.pieces_end()));
  }
  generation.admit(clock_());
  if (source != nullptr) generation.take_over(*source);
  return {};
}

void Engine::apply(const StepPlan& plan) {
  std::vector<bool> forks;  // of those admitted
  for (const int64_t id : plan.admitted) forks.push_back(fork_source(generation(id)) != nullptr);
  for (const int64_t id : plan.expired) generation(id).finish(Finish::deadline, clock_());
  for (const StepPlan::Refused& refused : plan.refused) {
    Generation& one = generation(refused.id);
    one.fail(refusal(refused, one.sequence(), *pool_, promises_));
    // With nobody let in, what was slow once would never be measured again.
    if (refused.why == Refusal::token_gap) cost_.decode = StepTimes();
  }
  for (const int64_t id : plan.paused) {
    generation(id).pause();
    ++counts_.preemptions;
  }
  // What has ended gives its room to those that start.
  remove_finished();
  for (size_t i = 0; i < plan.admitted.size(); ++i) {
    Generation& one = generation(plan.admitted[i]);
    // What it was to fork has just been paused or has ended: there is not the room to start
    // otherwise, and the next plan sees to it.
    if (forks[i] && fork_source(one) == nullptr) continue;
    if (may_find_prefix(one) && !has_prefix(one)) continue;  // it starts when its prompt is found
    if (Status admitted = admit(one); !admitted.ok()) one.fail(std::move(admitted));
  }
}

void Engine::launch(const StepPlan& plan) {
  step_rows_.clear();
  for (const StepPlan::Rows& rows : plan.rows) {
    Generation& one = generation(rows.id);
    if (one.phase() != Phase::prefilling && one.phase() != Phase::decoding) continue;
    // An answer may start further on than it was planned to.
    const bool is_decoded = one.phase() == Phase::decoding;
    const int64_t cached = one.sequence().num_cached();
    const int64_t most = is_decoded ? 1 + static_cast<int64_t>(one.drafts().size())
                                    : std::min(one.pieces_end(), next_stop(one, cached)) - cached;
    step_rows_.push_back({&one, std::min(rows.count, most), is_decoded});
    counts_.rows += step_rows_.back().count;
  }
  ++counts_.steps;
  if (prefix_ != nullptr) make_room_for(step_rows_);
  steps_->launch(step_rows_);
}

void Engine::make_room_for(std::span<const StepRunner::Rows> rows) {
  int64_t needed = 0;
  for (const StepRunner::Rows& one : rows) {
    const cache::SequenceCache& cache = *one.generation->sequence().cache;
    needed += std::max<int64_t>(
        0, pool_->layout().num_blocks(cache.num_tokens() + one.count) - cache.num_blocks());
    needed += cache.copies_before_write() ? 1 : 0;
  }
  prefix_->make_room(needed);
}

bool Engine::can_go_on() {
  if (!goes_on_.value_or(pool_->gpu() != nullptr)) return false;
  if (step_rows_.empty() || step_rows_.size() != generations_.size() ||
      step_rows_.size() > ops::Drawing::kMaxRows)
    return false;
  {
    const std::scoped_lock lock(mutex_);
    if (!submitted_.empty() || !cancelled_.empty()) return false;
  }
  const double now_s = clock_();
  const int64_t unit = pool_->layout().block_tokens();
  return std::ranges::all_of(step_rows_, [&](const StepRunner::Rows& rows) {
    const Generation& one = *rows.generation;
    if (!rows.is_decoded || !one.can_go_on() || one.candidate().deadline_s <= now_s) return false;
    // Neither step fills a block, which is kept between steps.
    const int64_t in_block = one.sequence().num_cached() % unit;
    return prefix_ == nullptr || (in_block > 0 && in_block + 1 < unit);
  });
}

void Engine::keep_prefix(Generation& generation, bool is_end) {
  Sequence& sequence = generation.sequence();
  if (prefix_ != nullptr && sequence.num_cached() > 0)
    prefix_->store(sequence.tokens, *sequence.cache, generation.num_prompt_tokens(), is_end,
                   generation.request().cache_salt);
}

double Engine::collect() {
  const double drafting_s = steps_->collect(cost_);
  if (const Status shortage = steps_->take_shortage(); !shortage.ok()) {
    for (const StepRunner::Rows& rows : step_rows_) {
      if (!rows.generation->is_finished())
        rows.generation->fail(resource_exhausted("a step's scratch: " + shortage.message()));
    }
  }
  if (prefix_ == nullptr) return drafting_s;
  for (const StepRunner::Rows& rows : step_rows_) {
    Generation& one = *rows.generation;
    const int64_t unit = pool_->layout().block_tokens();
    const bool has_crossed = one.sequence().num_cached() / unit > one.first_planned() / unit;
    if (!one.is_finished() && has_crossed) keep_prefix(one, false);
  }
  return drafting_s;
}

std::optional<Phase> Engine::phase(RequestId id) const {
  for (const std::unique_ptr<Generation>& generation : generations_) {
    if (generation->submitted().id == id) return generation->phase();
  }
  const std::scoped_lock lock(mutex_);
  for (const std::shared_ptr<Submitted>& submitted : submitted_) {
    if (submitted->id == id) return Phase::waiting;
  }
  return std::nullopt;
}

void Engine::remove_finished() {
  steps_->drop_finished();
  std::erase_if(step_rows_, [](const auto& rows) { return rows.generation->is_finished(); });
  for (size_t i = 0; i < generations_.size(); ++i) {
    if (!generations_[i]->is_finished()) continue;
    Generation& generation = *generations_[i];
    Sequence& sequence = generation.sequence();
    drop_search(generation);
    sequence.is_busy = false;
    const bool is_own = generation.answer() > 0 || generation.request().sequence == kNewSequence;
    if (generation.result()) keep_prefix(generation, true);
    if (is_own) sequence.cache.reset();
    if (generation.result()) {
      counts_.drafted += generation.result()->drafted;
      counts_.accepted += generation.result()->accepted;
      if (generation.request().num_drafts > 0 && generation.request().adapts_drafts)
        draft_history_.learn_from(generation.draft_history(), generation.request().num_drafts);
    }
    generation.send_result(weights_version_);
    if (is_own) sequences_.erase(generation.sequence_id());
    if (--generation.submitted().num_unfinished == 0) {
      const std::scoped_lock lock(mutex_);
      --num_requests_;
    }
  }
  std::erase_if(generations_, [](const auto& generation) { return generation->is_finished(); });
}

bool Engine::step() {
  take_submitted();
  remove_finished();
  if (!generations_.empty()) {
    const double start_s = clock_();
    double planned_s = start_s, applied_s = start_s;
    if (steps_->is_under_way()) {
      if (prefix_ != nullptr) prefix_->advance();
    } else {
      plan();
      planned_s = clock_();
      apply(plan_);
      applied_s = clock_();
      launch(plan_);
    }
    int64_t decoded = 0, pieces = 0;
    for (const StepRunner::Rows& rows : step_rows_)
      (rows.is_decoded ? decoded : pieces) += rows.count;
    if (can_go_on() && steps_->go_on()) {
      ++counts_.steps;
      ++counts_.gone_on;
      counts_.rows += decoded;
    }
    const double drafting_s = collect();
    remove_finished();
    // What starts and ends answers comes apart: it is no cost of rows.
    cost_.record(decoded, pieces, clock_() - applied_s + planned_s - start_s - drafting_s);
    if (step_rows_.empty()) wait_for_disk();
  }
  const std::scoped_lock lock(mutex_);
  return !generations_.empty() || !submitted_.empty() || !cancelled_.empty();
}

void Engine::wait_for_disk() {
  const bool waits = std::ranges::any_of(
      searches_, [&](const auto& search) { return !prefix_->is_found(search.second); });
  if (!waits) return;
  std::unique_lock lock(mutex_);
  has_work_.wait_for(lock, kDiskWait,
                     [&] { return has_disk_news_ || !submitted_.empty() || !cancelled_.empty(); });
}

void Engine::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    if (step()) continue;
    std::unique_lock lock(mutex_);
    has_work_.wait(lock, stop, [&] { return !submitted_.empty() || !cancelled_.empty(); });
  }
}

}  // namespace cachalot::engine
