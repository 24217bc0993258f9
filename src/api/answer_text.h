// One answer from tokens to what a client reads: text told apart by the completion parser, up to a
// stop string.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/stop_filter.h"
#include "engine/request.h"
#include "text/completion_parser.h"
#include "text/detokenizer.h"

namespace cachalot::api {

struct AnswerTextOptions {
  // None: a raw completion, all of it content.
  std::optional<text::CompletionParserOptions> parser;
  // They end the answer where content holds one: not in reasoning, nor in arguments.
  std::vector<std::string> stops;
  bool keeps_stop = false;
  bool shows_controls = false;  // as text
};

class AnswerText {
 public:
  AnswerText(const text::Tokenizer& tokenizer, const AnswerTextOptions& options);

  // Appends what is certain now.
  void push(int32_t token, std::vector<text::CompletionEvent>& events);
  // Once, unless is_stopped(): `finish` is how the engine ended it.
  void finish(engine::Finish finish, std::vector<text::CompletionEvent>& events);

  bool is_stopped() const { return filter_.is_stopped(); }
  const std::string& stopped_by() const { return filter_.stopped_by(); }

  int64_t num_tokens() const { return num_tokens_; }
  int64_t num_reasoning_tokens() const { return num_reasoning_tokens_; }

  // All that has been given out.
  const std::string& reasoning() const { return reasoning_; }
  const std::string& content() const { return content_; }
  // Complete calls alone count; those that broke off are there too.
  const std::vector<text::ParsedCall>& calls() const;
  bool has_complete_call() const;

 private:
  void feed(std::string_view text, std::vector<text::CompletionEvent>& events);
  void give(std::vector<text::CompletionEvent>& found, std::vector<text::CompletionEvent>& events);
  void give_content(std::string_view text, bool is_end, std::vector<text::CompletionEvent>& events);

  text::Detokenizer detokenizer_;
  std::optional<text::CompletionParser> parser_;
  StopFilter filter_;
  std::optional<int32_t> think_start_, think_end_;
  bool is_in_reasoning_;
  int64_t num_tokens_ = 0;
  int64_t num_reasoning_tokens_ = 0;
  std::string reasoning_, content_;
  std::string piece_;
  std::vector<text::CompletionEvent> found_;
};

}  // namespace cachalot::api
