// A conversation with a model: encodes it, runs what is new of it, parses what comes back and keeps
// it as it was sampled.
#pragma once

#include <functional>
#include <string>

#include "apps/conversation.h"
#include "apps/prompt_cache.h"
#include "apps/run_options.h"
#include "text/completion_parser.h"
#include "text/prompt_ids.h"

namespace cachalot::apps {

struct ChatLimits {
  int64_t max_tokens = 0;  // of an answer; 0: what the context leaves
  int64_t drafts = 0;
};

// What the last answer cost.
struct AnswerStats {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt
  int64_t answer_tokens = 0;  // reasoning included
  double prefill_seconds = 0;
  double decode_seconds = 0;
  int64_t drafted = 0;
  int64_t accepted = 0;
  engine::Finish finish = engine::Finish::length;
};

// Borrows the session.
class ChatSession {
 public:
  ChatSession(Session& session, engine::SamplingParams sampling, ChatLimits limits)
      : engine_(*session.engine),
        tokenizer_(*session.tokenizer),
        stop_tokens_(session.stop_tokens),
        sampling_(std::move(sampling)),
        limits_(limits),
        cache_(engine_) {}

  Conversation conversation;
  text::ChatStyle style;
  engine::SamplingParams& sampling() { return sampling_; }

  // Each may be empty.
  struct Callbacks {
    std::function<void(int64_t done_tokens, int64_t total_tokens)> on_prefill;
    std::function<void(const text::CompletionEvent&)> on_event;
    std::function<bool()> keep_going;
  };
  // Answers the conversation as it stands and appends the answer to it, however far it came.
  // Stopped before its first token, it appends nothing (stats().answer_tokens is 0). On an error
  // the conversation is as before.
  Status answer(const Callbacks& callbacks);
  const AnswerStats& stats() const { return stats_; }
  int64_t context_tokens() const {
    return cache_.live() < 0 ? 0 : static_cast<int64_t>(engine_.tokens(cache_.live()).size());
  }
  void forget() { cache_.clear(); }

 private:
  Status prefill(const text::ChatPrompt& prompt, const Callbacks& callbacks);
  Status decode(bool starts_in_reasoning, const Callbacks& callbacks);
  Result<engine::Completion> run(std::span<const int32_t> prompt, int64_t max_tokens,
                                 const std::function<bool(const engine::Event&)>& on_event);

  engine::Engine& engine_;
  const text::Tokenizer& tokenizer_;
  const std::vector<int32_t>& stop_tokens_;
  engine::SamplingParams sampling_;
  ChatLimits limits_;
  PromptCache cache_;
  AnswerStats stats_;
};

}  // namespace cachalot::apps
