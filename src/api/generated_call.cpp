#include "api/generated_call.h"

#include <fmt/format.h>

#include <algorithm>

namespace cachalot::api {

AnswerEvent AnswerEvent::copy_of(const engine::Event& event) {
  AnswerEvent copy{.kind = event.kind,
                   .answer = event.answer,
                   .done_tokens = event.done_tokens,
                   .total_tokens = event.total_tokens,
                   .token = event.token,
                   .logprob = event.logprob,
                   .model_logprob = event.model_logprob,
                   .top = {event.top.begin(), event.top.end()},
                   .result = {}};
  if (event.result != nullptr) copy.result = *event.result;
  return copy;
}

std::optional<ApiError> check_total(std::span<const Ask> asks) {
  int64_t total = 0;
  for (const Ask& ask : asks)
    total += static_cast<int64_t>(ask.request.prompt.size()) * ask.request.num_answers;
  if (total <= kMaxTotalTokens) return std::nullopt;
  return ApiError::of(invalid_argument(fmt::format(
      "n: expected prompts of at most {} tokens in all, counted once for each answer, found {}",
      kMaxTotalTokens, total)));
}

std::vector<Ask> only(Ask ask) {
  std::vector<Ask> asks;
  asks.push_back(std::move(ask));
  return asks;
}

GeneratedCall::GeneratedCall(const ServedModel& model, std::vector<Ask> asks, bool streams,
                             ErrorShape shape)
    : model_(model), streams_(streams), shape_(shape) {
  for (Ask& ask : asks) {
    Prompt& prompt = prompts_.emplace_back();
    prompt.ids = ask.request.prompt;
    prompt.num_top_logprobs = ask.request.num_top_logprobs;
    prompt.first_answer = static_cast<int64_t>(answers_.size());
    prompt.num_answers = ask.request.num_answers;
    for (int64_t i = 0; i < prompt.num_answers; ++i) {
      answers_.push_back({.index = static_cast<int64_t>(answers_.size()),
                          .request = prompts_.size() - 1,
                          .text = AnswerText(model.tokenizer(), ask.text),
                          .tokens = {},
                          .prompt_logprobs = {},
                          .prompt_top = {}});
    }
    requests_.push_back(std::move(ask.request));
  }
  num_unfinished_ = answers_.size();
}

std::vector<engine::Request> GeneratedCall::take_requests() { return std::move(requests_); }

void GeneratedCall::head(std::string& out) {
  if (streams_) write_head(out);
}

void GeneratedCall::start(Prompt& prompt, int64_t cached_tokens, std::string& out) {
  if (prompt.is_known) return;
  prompt.is_known = true;
  prompt.cached_tokens = cached_tokens;
  if (is_started_) return;
  is_started_ = true;
  if (streams_) write_start(out);
}

void GeneratedCall::take(size_t request, const AnswerEvent& event, std::string& out) {
  if (is_done()) return;
  Prompt& prompt = prompts_[request];
  const auto size = static_cast<int64_t>(prompt.ids.size());
  Answer& answer = answers_[static_cast<size_t>(prompt.first_answer + event.answer)];
  switch (event.kind) {
    case engine::Event::Kind::prefill:
      if (event.answer == 0) start(prompt, size - event.total_tokens, out);
      return;
    case engine::Event::Kind::token: {
      // A first answer that begins without a prompt's run had all of it but the last token.
      if (event.answer == 0) start(prompt, size - 1, out);
      if (answer.is_finished) return;
      if (prompt.num_top_logprobs >= 0)
        answer.tokens.push_back({event.token, event.model_logprob, event.top});
      events_.clear();
      answer.text.push(event.token, events_);
      give_events(answer, out);
      if (answer.text.is_stopped()) {
        answer.finish = engine::Finish::stop;
        finish(answer, out);
      }
      return;
    }
    case engine::Event::Kind::finished: {
      const Result<engine::Completion>& result = *event.result;
      if (!result) return fail(ApiError::of(result.error()), out);
      if (result->finish == engine::Finish::cancelled && !answer.is_finished) {
        ApiError error;
        error.status = 503;
        error.message = "The answer was cancelled by the server.";
        return fail(std::move(error), out);
      }
      if (event.answer == 0) start(prompt, size - result->prompt_tokens, out);
      if (answer.is_finished) return;
      answer.prompt_logprobs = result->prompt_logprobs;
      answer.prompt_top = result->prompt_top;
      events_.clear();
      answer.text.finish(result->finish, events_);
      give_events(answer, out);
      answer.finish = answer.text.is_stopped() ? engine::Finish::stop : result->finish;
      finish(answer, out);
      return;
    }
  }
}

void GeneratedCall::give_events(Answer& answer, std::string& out) {
  if (!streams_) {
    take_whole(answer, events_);
  } else if (!events_.empty() || has_untold(answer)) {
    write_events(answer, events_, out);
  }
}

void GeneratedCall::finish(Answer& answer, std::string& out) {
  answer.is_finished = true;
  if (streams_) write_finish(answer, out);
  if (--num_unfinished_ == 0 && streams_) write_end(out);
}

void GeneratedCall::fail(ApiError error, std::string& out) {
  if (is_done()) return;
  error_ = std::move(error);
  if (streams_) write_error(*error_, out);
}

void GeneratedCall::refuse(size_t, const Status& status, std::string& out) {
  fail(ApiError::of(status), out);
}

bool GeneratedCall::wants_cancel(size_t request) const {
  if (is_done()) return true;
  const Prompt& prompt = prompts_[request];
  const auto begin = answers_.begin() + prompt.first_answer;
  return std::all_of(begin, begin + prompt.num_answers,
                     [](const Answer& answer) { return answer.is_finished; });
}

HttpAnswer GeneratedCall::answer() {
  if (error_) return error_answer(*error_, shape_);
  HttpAnswer answer;
  answer.headers = headers_;
  answer.body = write_whole();
  return answer;
}

std::optional<HttpAnswer> GeneratedCall::failure() const {
  if (!error_) return std::nullopt;
  return error_answer(*error_, shape_);
}

Usage GeneratedCall::usage() const {
  Usage usage;
  for (const Prompt& prompt : prompts_) {
    usage.prompt_tokens += static_cast<int64_t>(prompt.ids.size());
    usage.cached_tokens += prompt.cached_tokens;
  }
  for (const Answer& answer : answers_) {
    usage.completion_tokens += answer.text.num_tokens();
    usage.reasoning_tokens += answer.text.num_reasoning_tokens();
  }
  return usage;
}

}  // namespace cachalot::api
