// What the engine asks before a token: a grammar, and the least number of tokens before the end.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "api/grammar_cache.h"
#include "engine/token_mask.h"
#include "grammar/matcher.h"

namespace cachalot::api {

// Where the grammar leaves nothing but the end, the text ends, however short it is.
// Errors   invalid_argument where the grammar's work grows beyond its bounds.
class GrammarMask : public engine::TokenMask {
 public:
  struct Options {
    std::shared_ptr<CachedGrammar> grammar;  // null: every text
    std::vector<int32_t> stop_tokens;
    int64_t min_tokens = 0;
    int64_t vocab_size = 0;  // of the model
  };
  explicit GrammarMask(Options options);

  Status allow(std::span<uint64_t> allowed) override;
  void take(int32_t id) override;
  void rewind(int64_t count) override;

 private:
  bool allows_more(std::span<const uint64_t> allowed) const;

  const Options options_;
  std::optional<grammar::Matcher> matcher_;
  Status status_;
  std::vector<uint32_t> row_;
  int64_t num_tokens_ = 0;
  int64_t stopped_at_ = -1;  // num_tokens_ after a token that ends the text
};

}  // namespace cachalot::api
