// One task asked of a policy: its prompt, what its answer says, and, where it has tools, the turns
// between.
// Source  reference/post-training 5 (tool calls, interleaved thinking), chat 2, 3.
// Exact   All are pure functions of the task and the answer's tokens: the tools' world is made anew
//         and the calls done again, so that an episode goes on after a crash as if undisturbed.
// Errors  the encoder's and the tokenizer's.
// Threads any.
#pragma once

#include <string>
#include <vector>

#include "post/rollout_log.h"
#include "post/tasks.h"
#include "text/prompt_ids.h"

namespace cachalot::post {

enum class PromptFormat { raw, chat };

// How tasks are written as tokens; borrowed by its episodes.
struct EpisodeFormat {
  const text::Tokenizer* tokenizer;
  PromptFormat prompt = PromptFormat::chat;
  text::PromptFamily family = text::PromptFamily::v4;
  int64_t bos_token = 0;  // of the model: raw prompts of other tokenizers
  int64_t max_turns = 8;  // of the policy
};

class Episode {
 public:
  // effort: TaskEntry's.
  static Result<Episode> create(const EpisodeFormat& format, RlTask task, std::string_view effort);

  const RlTask& task() const { return task_; }
  const std::vector<int32_t>& prompt() const { return prompt_; }
  // Tokens to go on after, where the last turn has called tools; else none.
  Result<std::vector<int32_t>> next_turn(const RolloutAnswer& answer) const;
  // What the checker sees: the last turn's text and the calls of all turns.
  Result<data::Reply> reply(const RolloutAnswer& answer) const;
  // Sampled tokens up to each turn's end of reasoning; all of a turn that does not end it.
  int64_t num_reasoning_tokens(const RolloutAnswer& answer) const;
  // For people: control tokens too.
  Result<std::string> text(const RolloutAnswer& answer) const;

 private:
  struct Turn {
    std::string reasoning, content;
    std::vector<text::ToolCall> calls;  // complete ones
  };
  explicit Episode(const EpisodeFormat& format, RlTask task)
      : format_(format), task_(std::move(task)) {}
  Result<std::vector<Turn>> turns(const RolloutAnswer& answer) const;

  EpisodeFormat format_;
  RlTask task_;
  text::ChatStyle style_;
  std::vector<text::Message> messages_;  // of the prompt
  std::vector<int32_t> prompt_;
  bool ends_in_reasoning_ = false;
};

}  // namespace cachalot::post
