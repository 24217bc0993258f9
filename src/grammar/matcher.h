// A text in the making under a grammar: takes tokens one by one, says which may come next, and goes
// back to any earlier token as if what followed had never been. Copying forks it: the copies share
// the grammar's memory and nothing else.
// Errors   As token_automaton.h; a refused call changes nothing.
// Threads  One at a time for all matchers of one TokenAutomaton.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "grammar/token_automaton.h"

namespace cachalot::grammar {

class Matcher {
 public:
  explicit Matcher(std::shared_ptr<TokenAutomaton> automaton);

  Status accept(int32_t token);
  bool allows(int32_t token);
  // How many of the tokens, one after the other, are allowed: drafts up to there may be verified.
  size_t count_allowed(std::span<const int32_t> tokens);

  // Tokens accepted so far; rewind keeps the first num_tokens of them.
  int64_t num_tokens() const { return static_cast<int64_t>(sets_.size()) - 1; }
  void rewind(int64_t num_tokens);

  // The text may end here, or has ended.
  bool may_end() const { return is_ended() || automaton_->may_end(sets_.back()); }
  bool is_ended() const { return sets_.back() == Pushdown::kEnded; }

  // The tokens that may come next. After the end there is no next token: no bit is set.
  Status fill_row(std::span<uint32_t> row);
  const Vocabulary& vocabulary() const { return automaton_->vocabulary(); }

 private:
  std::shared_ptr<TokenAutomaton> automaton_;
  std::vector<SetId> sets_;  // before each token, and after the last
};

}  // namespace cachalot::grammar
