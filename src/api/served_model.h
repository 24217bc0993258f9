// The model that calls are for, as they know it.
// Threads  Everything but the grammar cache is immutable once serving; all of it is for any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "api/forced_calls.h"
#include "api/grammar_cache.h"
#include "engine/sampling_params.h"
#include "grammar/vocabulary.h"
#include "text/chat_encoding.h"
#include "text/tokenizer.h"

namespace cachalot::api {

struct ServedModelOptions {
  std::string name;
  std::vector<std::string> aliases = {};
  text::PromptFamily family = text::PromptFamily::v4;
  int64_t context_tokens = 0;  // prompt and answer together
  int64_t vocab_size = 0;      // of the model's logits
  int32_t bos_token = 0;       // for tokenizers that do not know DeepSeek's
  std::vector<int32_t> stop_tokens = {};
  engine::SamplingParams sampling = {};  // what a client does not say
  std::string effort = "high";           // likewise
  int64_t max_tokens = 0;                // of an answer, likewise; 0: what the context leaves
  int64_t num_drafts = 0;
  int64_t max_answers = 64;       // of a request (n), as the engine allows
  int64_t created = 0;            // Unix seconds
  ForcedCalls forced_calls = {};  // in tests alone
  // Unguessable; replaced in tests. `prefix`: "chatcmpl-", "call_", ...
  std::function<std::string(std::string_view prefix)> new_id = {};
  std::function<int64_t()> now = {};  // Unix seconds
  std::function<uint64_t()> new_seed = {};
};

class ServedModel {
 public:
  // Borrows the tokenizer. Errors: a vocabulary that grammars cannot use.
  static Result<std::unique_ptr<ServedModel>> create(ServedModelOptions options,
                                                     const text::Tokenizer& tokenizer);

  const ServedModelOptions& options() const { return options_; }
  const text::Tokenizer& tokenizer() const { return tokenizer_; }
  const std::shared_ptr<const grammar::Vocabulary>& vocabulary() const { return vocabulary_; }
  GrammarCache& grammars() const { return *grammars_; }

  // Names that calls may give. Those that end in kNoThinking, "deepseek-chat" and claude-haiku's
  // answer without thinking where the call does not say.
  static constexpr std::string_view kNoThinking = ":no-thinking";
  struct Name {
    bool is_known = false;
    bool thinks = true;
  };
  // `any_claude`: names that begin with "claude" are this model's.
  Name name(std::string_view asked, bool any_claude) const;

 private:
  ServedModel(ServedModelOptions options, const text::Tokenizer& tokenizer)
      : options_(std::move(options)), tokenizer_(tokenizer) {}

  ServedModelOptions options_;
  const text::Tokenizer& tokenizer_;
  std::shared_ptr<const grammar::Vocabulary> vocabulary_;
  std::unique_ptr<GrammarCache> grammars_;
};

}  // namespace cachalot::api
