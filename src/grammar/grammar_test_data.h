// What the tests of grammars share: whether a grammar takes a text, byte by byte.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "grammar/pushdown.h"

namespace cachalot::grammar {

class TextMatcher {
 public:
  static Result<TextMatcher> create(const GrammarSource& source) {
    CACHALOT_ASSIGN_OR_RETURN(Automaton automaton, Automaton::compile(source));
    return TextMatcher(std::make_shared<const Automaton>(std::move(automaton)));
  }

  bool matches(std::string_view text) {
    const SetId set = read(text);
    return set != Pushdown::kDead && pushdown_->may_end(set);
  }
  // Some longer text may match.
  bool begins(std::string_view text) { return read(text) != Pushdown::kDead; }

 private:
  explicit TextMatcher(std::shared_ptr<const Automaton> automaton)
      : pushdown_(std::make_shared<Pushdown>(std::move(automaton))) {}
  SetId read(std::string_view text) {
    SetId set = pushdown_->start();
    for (const char c : text) set = pushdown_->step(set, static_cast<uint8_t>(c));
    return set;
  }

  std::shared_ptr<Pushdown> pushdown_;
};

}  // namespace cachalot::grammar
