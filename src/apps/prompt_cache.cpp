#include "apps/prompt_cache.h"

#include <algorithm>

#include "apps/run_options.h"

namespace cachalot::apps {
namespace {

// of the engine's 8 sequences; one is live, one a fork in the making
constexpr size_t kMaxMarks = 6;
// engine/model_cache_layout.h: the least that a sequence can step back
constexpr int64_t kStepBack = 8;

}  // namespace

int64_t PromptCache::reusable(engine::SequenceId id, int64_t shared) const {
  const int64_t cached = engine_.num_cached(id);
  const int64_t kept = std::min(cached, std::max<int64_t>(shared - 1, 0));
  return kept >= cached - kStepBack ? kept : 0;
}

Result<int64_t> PromptCache::place(std::span<const int32_t> prompt) {
  engine::SequenceId best = live_;
  int64_t best_rows =
      live_ < 0
          ? -1
          : reusable(live_, static_cast<int64_t>(common_prefix(engine_.tokens(live_), prompt)));
  for (const engine::SequenceId mark : marks_) {
    const int64_t rows =
        reusable(mark, static_cast<int64_t>(common_prefix(engine_.tokens(mark), prompt)));
    if (rows > best_rows) {
      best = mark;
      best_rows = rows;
    }
  }
  if (best < 0) {
    CACHALOT_ASSIGN_OR_RETURN(live_, engine_.open());
  } else if (best != live_) {
    CACHALOT_ASSIGN_OR_RETURN(const engine::SequenceId fork, engine_.fork(best));
    if (live_ >= 0) engine_.close(live_);
    live_ = fork;
  }
  const auto shared = static_cast<int64_t>(common_prefix(engine_.tokens(live_), prompt));
  CACHALOT_RETURN_IF_ERROR(engine_.rewind(live_, shared));
  return shared;
}

void PromptCache::mark() {
  if (marks_.size() == kMaxMarks) {
    engine_.close(marks_.front());
    marks_.pop_front();
  }
  const Result<engine::SequenceId> fork = engine_.fork(live_);
  if (fork) marks_.push_back(*fork);
}

void PromptCache::drop_marks() {
  for (const engine::SequenceId mark : marks_) engine_.close(mark);
  marks_.clear();
}

void PromptCache::clear() {
  drop_marks();
  if (live_ >= 0) engine_.close(live_);
  live_ = -1;
}

}  // namespace cachalot::apps
