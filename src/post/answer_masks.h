// Answers that are bound to a JSON schema (RolloutGroup::schema): which tokens may come next, also
// where an answer goes on from its log.
// Source  reference/post-training 4 (a verdict's fixed JSON).
// Reasoning  where the prompt ends by beginning it, is free up to its end.
// Threads one, the engine's.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "api/grammar_cache.h"
#include "post/rollouts.h"
#include "text/prompt_ids.h"
#include "text/tokenizer.h"

namespace cachalot::post {

class AnswerMasks {
 public:
  // Errors  the tokenizer's; a vocabulary that grammars cannot use.
  static Result<std::unique_ptr<AnswerMasks>> create(std::string_view tokenizer_json,
                                                     int64_t vocab_size);

  // One more for the answer so far, each time it is called; empty for a group without a schema.
  // Errors  of the schema, and of an answer that breaks it.
  Result<MakeMask> mask_of(const RolloutPlan& plan, int64_t answer,
                           const RolloutAnswer& so_far) const;

 private:
  AnswerMasks(text::Tokenizer tokenizer, int64_t vocab_size)
      : tokenizer_(std::move(tokenizer)), vocab_size_(vocab_size) {}

  text::Tokenizer tokenizer_;
  int64_t vocab_size_;
  text::PromptFamily family_ = text::PromptFamily::v4;
  std::shared_ptr<const grammar::Vocabulary> vocabulary_;
  std::unique_ptr<api::GrammarCache> grammars_;
};

}  // namespace cachalot::post
