// Keeps what a conversation has already been through the model, so that a new prompt runs only what
// is new in it.
//
// Besides the live sequence there are forks taken at the ends of earlier prompts: a sequence can
// step back only a few tokens (cache/sequence_cache.h), while /undo, /retry and reasoning that is
// dropped from earlier turns go back to such a place. Borrows the engine.
#pragma once

#include <deque>
#include <span>

#include "base/status.h"
#include "engine/engine.h"

namespace cachalot::apps {

class PromptCache {
 public:
  explicit PromptCache(engine::Engine& engine) : engine_(engine) {}
  ~PromptCache() { clear(); }
  PromptCache(const PromptCache&) = delete;
  PromptCache& operator=(const PromptCache&) = delete;

  // Makes live() hold the longest beginning of `prompt` that is cached somewhere; the number of
  // tokens it holds.
  Result<int64_t> place(std::span<const int32_t> prompt);
  engine::SequenceId live() const { return live_; }
  // Remembers the live sequence as it is. Without room it does nothing: only speed is lost.
  void mark();
  void drop_marks();
  void clear();

 private:
  // Rows that a sequence would still have for a prompt that shares `shared` tokens with it.
  int64_t reusable(engine::SequenceId id, int64_t shared) const;

  engine::Engine& engine_;
  engine::SequenceId live_ = -1;
  std::deque<engine::SequenceId> marks_;  // oldest first
};

}  // namespace cachalot::apps
