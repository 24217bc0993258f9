// What the calls of all APIs share: from the engine's events to answers as they run, their usage,
// their end and their errors. An API adds how each of these looks.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "api/answer_text.h"
#include "api/call.h"
#include "api/error.h"
#include "api/served_model.h"

namespace cachalot::api {

// One prompt and what to do with its answers.
struct Ask {
  engine::Request request;
  AnswerTextOptions text;
};

// Every answer holds its prompt: together they have a limit.
inline constexpr int64_t kMaxTotalTokens = int64_t{1} << 24;
std::optional<ApiError> check_total(std::span<const Ask> asks);
std::vector<Ask> only(Ask ask);

class GeneratedCall : public Call {
 public:
  std::vector<engine::Request> take_requests() override;
  bool streams() const override { return streams_; }
  const std::vector<HttpHeader>& headers() const override { return headers_; }
  void head(std::string& out) override;
  void take(size_t request, const AnswerEvent& event, std::string& out) override;
  void refuse(size_t request, const Status& status, std::string& out) override;
  bool wants_cancel(size_t request) const override;
  bool is_done() const override { return error_ || num_unfinished_ == 0; }
  HttpAnswer answer() override;
  std::optional<HttpAnswer> failure() const override;
  Usage usage() const override;

 protected:
  // What the engine told of one token.
  struct TokenInfo {
    int32_t token = -1;
    double logprob = 0;  // the model's own
    std::vector<ops::TokenLogprob> top;
  };
  struct Answer {
    int64_t index = 0;  // among all of the call
    size_t request = 0;
    AnswerText text;
    // Where the client asked for log-probabilities; those that no chunk has had begin at num_told.
    std::vector<TokenInfo> tokens;
    size_t num_told = 0;
    bool is_finished = false;
    engine::Finish finish = engine::Finish::length;
    // Of the prompt: where the client asked.
    std::vector<double> prompt_logprobs;
    std::vector<ops::TokenLogprob> prompt_top;
  };
  struct Prompt {
    std::vector<int32_t> ids;
    int64_t cached_tokens = 0;
    int64_t num_top_logprobs = -1;
    int64_t first_answer = 0, num_answers = 1;
    bool is_known = false;  // how much of it was cached
  };

  GeneratedCall(const ServedModel& model, std::vector<Ask> asks, bool streams, ErrorShape shape);

  // Of streams. write_head: at once; write_start: when it is known how much of the first prompt was
  // cached; then each answer's events, and its end.
  virtual void write_head(std::string&) {}
  virtual void write_start(std::string&) {}
  virtual void write_events(Answer& answer, std::span<const text::CompletionEvent> events,
                            std::string& out) = 0;
  virtual void write_finish(Answer& answer, std::string& out) = 0;
  virtual void write_end(std::string& out) = 0;
  virtual void write_error(const ApiError& error, std::string& out) = 0;
  // Of calls that do not stream: each answer's events, for who puts the body together from them;
  // and the body.
  virtual void take_whole(Answer&, std::span<const text::CompletionEvent>) {}
  virtual std::string write_whole() = 0;

  const ServedModel& model() const { return model_; }
  const std::vector<Prompt>& prompts() const { return prompts_; }
  std::vector<Answer>& answers() { return answers_; }
  void add_header(HttpHeader header) { headers_.push_back(std::move(header)); }
  // A text that shows nothing new yet has tokens to tell.
  static bool has_untold(const Answer& answer) { return answer.num_told < answer.tokens.size(); }

 private:
  void start(Prompt& prompt, int64_t cached_tokens, std::string& out);
  void give_events(Answer& answer, std::string& out);
  void finish(Answer& answer, std::string& out);
  void fail(ApiError error, std::string& out);

  const ServedModel& model_;
  std::vector<engine::Request> requests_;
  std::vector<Prompt> prompts_;
  std::vector<Answer> answers_;
  const bool streams_;
  const ErrorShape shape_;
  std::vector<HttpHeader> headers_;
  size_t num_unfinished_;
  bool is_started_ = false;
  std::optional<ApiError> error_;
  std::vector<text::CompletionEvent> events_;
};

}  // namespace cachalot::api
