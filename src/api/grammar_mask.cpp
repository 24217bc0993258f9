#include "api/grammar_mask.h"

#include <fmt/format.h>

#include <algorithm>

namespace cachalot::api {
namespace {

void set(std::span<uint64_t> ids, int32_t id, bool value) {
  const uint64_t bit = uint64_t{1} << (id % 64);
  uint64_t& word = ids[static_cast<size_t>(id) / 64];
  word = value ? word | bit : word & ~bit;
}

}  // namespace

GrammarMask::GrammarMask(Options options) : options_(std::move(options)) {
  if (options_.grammar == nullptr) return;
  matcher_.emplace(options_.grammar->automaton);
  row_.resize(matcher_->vocabulary().row_words());
}

Status GrammarMask::allow(std::span<uint64_t> allowed) {
  if (!status_.ok()) return status_;
  // A draft beyond the end: its row is never drawn from, but may not be empty.
  if (stopped_at_ >= 0) {
    set(allowed, options_.stop_tokens.front(), true);
    return {};
  }
  if (!matcher_) {
    for (int64_t id = 0; id < options_.vocab_size; id += 64) {
      const int64_t count = std::min<int64_t>(64, options_.vocab_size - id);
      allowed[static_cast<size_t>(id / 64)] = ~uint64_t{0} >> (64 - count);
    }
  } else {
    std::fill(row_.begin(), row_.end(), 0);
    if (const Status status = matcher_->fill_row(row_); !status.ok()) {
      options_.grammar->is_spent = true;
      return invalid_argument(fmt::format("grammar: {}", status.message()));
    }
    for (size_t i = 0; i < row_.size() && i / 2 < allowed.size(); ++i)
      allowed[i / 2] |= uint64_t{row_[i]} << (i % 2 * 32);
  }
  // Ends that the vocabulary has and the request does not stop at lead nowhere.
  const bool may_end = !matcher_ || matcher_->may_end();
  const bool is_early = num_tokens_ < options_.min_tokens;
  if (may_end && !(is_early && allows_more(allowed))) {
    for (const int32_t id : options_.stop_tokens) set(allowed, id, true);
  } else {
    for (const int32_t id : options_.stop_tokens) set(allowed, id, false);
  }
  return {};
}

bool GrammarMask::allows_more(std::span<const uint64_t> allowed) const {
  std::vector<uint64_t> rest(allowed.begin(), allowed.end());
  for (const int32_t id : options_.stop_tokens) set(rest, id, false);
  return std::any_of(rest.begin(), rest.end(), [](uint64_t word) { return word != 0; });
}

void GrammarMask::take(int32_t id) {
  ++num_tokens_;
  const std::vector<int32_t>& stops = options_.stop_tokens;
  if (std::find(stops.begin(), stops.end(), id) != stops.end()) stopped_at_ = num_tokens_;
  if (matcher_ && stopped_at_ < 0 && status_.ok()) status_ = matcher_->accept(id);
}

void GrammarMask::rewind(int64_t count) {
  num_tokens_ -= count;
  status_ = {};
  if (num_tokens_ < stopped_at_) stopped_at_ = -1;
  if (matcher_) matcher_->rewind(std::min(matcher_->num_tokens(), num_tokens_));
}

}  // namespace cachalot::api
