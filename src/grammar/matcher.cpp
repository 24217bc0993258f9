#include "grammar/matcher.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"

namespace cachalot::grammar {

Matcher::Matcher(std::shared_ptr<TokenAutomaton> automaton)
    : automaton_(std::move(automaton)), sets_{automaton_->start()} {}

Status Matcher::accept(int32_t token) {
  const SetId next = automaton_->step(sets_.back(), token);
  if (next == Pushdown::kDead) {
    CACHALOT_RETURN_IF_ERROR(automaton_->status());
    return invalid_argument(
        fmt::format("token {} after {} tokens: expected one that the grammar allows, found another",
                    token, num_tokens()));
  }
  sets_.push_back(next);
  return {};
}

bool Matcher::allows(int32_t token) {
  return automaton_->step(sets_.back(), token) != Pushdown::kDead;
}

size_t Matcher::count_allowed(std::span<const int32_t> tokens) {
  SetId set = sets_.back();
  for (size_t i = 0; i < tokens.size(); ++i) {
    set = automaton_->step(set, tokens[i]);
    if (set == Pushdown::kDead) return i;
  }
  return tokens.size();
}

void Matcher::rewind(int64_t num_tokens) {
  CACHALOT_CHECK(0 <= num_tokens && num_tokens <= this->num_tokens());
  sets_.resize(static_cast<size_t>(num_tokens) + 1);
}

Status Matcher::fill_row(std::span<uint32_t> row) {
  if (is_ended()) {
    std::fill(row.begin(), row.end(), 0);
    return {};
  }
  return automaton_->fill_row(sets_.back(), row);
}

}  // namespace cachalot::grammar
