#include "api/answer_text.h"

#include <algorithm>

#include "text/chat_literals.h"

namespace cachalot::api {

using text::CompletionEvent;
using Kind = text::CompletionEvent::Kind;

AnswerText::AnswerText(const text::Tokenizer& tokenizer, const AnswerTextOptions& options)
    : detokenizer_(tokenizer, options.shows_controls ? text::Detokenizer::Controls::shown
                                                     : text::Detokenizer::Controls::hidden),
      filter_(options.stops, options.keeps_stop),
      think_start_(tokenizer.token_id(text::kThinkStart)),
      think_end_(tokenizer.token_id(text::kThinkEnd)),
      is_in_reasoning_(options.parser && options.parser->starts_in_reasoning) {
  if (!options.parser) return;
  text::CompletionParserOptions parser = *options.parser;
  parser.spelled_marks_are_text = think_start_ && think_end_;
  parser_.emplace(std::move(parser));
}

void AnswerText::push(int32_t token, std::vector<CompletionEvent>& events) {
  if (is_stopped()) return;
  ++num_tokens_;
  if (token == think_end_) is_in_reasoning_ = false;
  if (is_in_reasoning_) ++num_reasoning_tokens_;
  // A mark that has nothing to end or to begin.
  if (parser_ && parser_->is_in_content() &&
      (token == think_end_ || (token == think_start_ && !parser_->content().empty())))
    return;
  piece_.clear();
  // The model's vocabulary may be larger than the tokenizer's.
  if (!detokenizer_.push(token, piece_).ok()) piece_ = "\uFFFD";
  feed(piece_, events);
}

void AnswerText::feed(std::string_view text, std::vector<CompletionEvent>& events) {
  if (!parser_) return give_content(text, false, events);
  found_.clear();
  parser_->feed(text, found_);
  give(found_, events);
}

void AnswerText::give(std::vector<CompletionEvent>& found, std::vector<CompletionEvent>& events) {
  for (CompletionEvent& event : found) {
    if (is_stopped()) return;
    if (event.kind == Kind::content) {
      is_in_reasoning_ = false;
      give_content(event.text, false, events);
      continue;
    }
    if (event.kind == Kind::reasoning) {
      reasoning_ += event.text;
    } else {
      is_in_reasoning_ = false;
      give_content({}, true, events);  // a call ends the text before it
    }
    events.push_back(std::move(event));
  }
}

void AnswerText::give_content(std::string_view text, bool is_end,
                              std::vector<CompletionEvent>& events) {
  std::string out;
  filter_.push(text, out);
  if (is_end && !is_stopped()) filter_.finish(out);
  if (out.empty()) return;
  content_ += out;
  events.push_back({.kind = Kind::content, .text = std::move(out), .id = {}});
}

void AnswerText::finish(engine::Finish finish, std::vector<CompletionEvent>& events) {
  piece_.clear();
  detokenizer_.finish(piece_);
  feed(piece_, events);
  if (parser_ && !is_stopped()) {
    found_.clear();
    parser_->finish(finish == engine::Finish::stop ? text::FinishCause::end_of_turn
                                                   : text::FinishCause::length_limit,
                    found_);
    give(found_, events);
  }
  if (!is_stopped()) give_content({}, true, events);
}

const std::vector<text::ParsedCall>& AnswerText::calls() const {
  static const std::vector<text::ParsedCall> kNone;
  return parser_ ? parser_->calls() : kNone;
}

bool AnswerText::has_complete_call() const {
  return std::any_of(calls().begin(), calls().end(),
                     [](const text::ParsedCall& call) { return call.complete; });
}

}  // namespace cachalot::api
