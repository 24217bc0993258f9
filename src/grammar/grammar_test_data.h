// What the tests of grammars share: whether a grammar takes a text, byte by byte, and what a
// notation's parser makes of texts.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

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

// Of a notation: what its parser makes of texts.
struct Notation {
  Result<GrammarSource> (*parse)(std::string_view text);

  Result<TextMatcher> matcher_of(std::string_view text) const {
    CACHALOT_ASSIGN_OR_RETURN(const GrammarSource source, parse(text));
    return TextMatcher::create(source);
  }
  void expect(std::string_view grammar, const std::vector<std::string>& yes,
              const std::vector<std::string>& no) const {
    auto matcher = matcher_of(grammar);
    ASSERT_TRUE(matcher) << matcher.error().message();
    for (const auto& text : yes) EXPECT_TRUE(matcher->matches(text)) << grammar << " : " << text;
    for (const auto& text : no) EXPECT_FALSE(matcher->matches(text)) << grammar << " : " << text;
  }
  // Pairs of a text and what its error says.
  void expect_errors(std::span<const std::pair<const char*, const char*>> cases) const {
    for (const auto& [text, what] : cases) {
      const auto matcher = matcher_of(text);
      ASSERT_FALSE(matcher.has_value()) << text;
      EXPECT_NE(matcher.error().message().find(what), std::string::npos)
          << text << ": " << matcher.error().message();
    }
  }
};

}  // namespace cachalot::grammar
